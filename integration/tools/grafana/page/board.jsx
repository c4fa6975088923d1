// A page with one dashboard on it: its panels where Grafana would place them, with the answers that a run has kept.
import { createRoot } from 'react-dom/client';
import { EventBusSrv, createTheme } from '@grafana/data';
import { GlobalStyles, PanelChrome, PanelContextProvider, ThemeContext } from '@grafana/ui';
import { framesOf } from './frames.js';
import { Panel } from './panels.jsx';

const { board, answers, width } = window.drawing;
const theme = createTheme({ colors: { mode: 'dark' } });

// Grafana's grid: 24 columns, rows of 30 pixels, 8 between.
const [COLUMNS, ROW, GAP] = [24, 30, 8];
const HEADER = 44;
const span = { from: answers.from, until: answers.until };
const column = (width - GAP) / COLUMNS;

const place = ({ x, y, w, h }) => ({
  position: 'absolute', left: GAP + x * column, top: HEADER + y * (ROW + GAP), width: w * column - GAP, height: h * (ROW + GAP) - GAP,
});

// What Grafana makes of an annotation's points: those that follow each other are one stretch.
function shades() {
  const found = [];
  for (const series of answers.annotations) {
    for (const [seconds] of series.values) {
      const time = seconds * 1000;
      const last = found[found.length - 1];
      if (last && time - last[1] <= 1000 && time >= last[1]) last[1] = time;
      else found.push([time, time]);
    }
  }
  return found;
}

function Header() {
  const time = (milliseconds) => new Date(milliseconds).toISOString().slice(11, 19);
  const host = board.templating.list.some(({ name }) => name === 'host') ? `Host  ${answers.host}     ` : '';
  return (
    <div style={{ position: 'absolute', top: 10, left: 12, right: 12, display: 'flex', justifyContent: 'space-between', whiteSpace: 'pre' }}>
      <span style={{ fontSize: 18, fontWeight: 500 }}>{board.title}</span>
      <span style={{ color: theme.colors.text.secondary }}>{`${host}${time(span.from)} to ${time(span.until)} UTC`}</span>
    </div>
  );
}

// What only a mesh has: the run that gave the answers had pages in its place, which are no picture of anything.
const FOREIGN = /\b(istio_requests_total|istio_agent_|container_)/;

function Foreign({ width, height }) {
  const style = { width, height, display: 'flex', alignItems: 'center', justifyContent: 'center', color: theme.colors.text.disabled };
  return <div style={style}>A mesh fills this panel. The run behind this picture had no mesh.</div>;
}

function Titled({ panel }) {
  const size = place(panel.gridPos);
  if (panel.type === 'row') return <div style={{ ...size, lineHeight: `${ROW}px`, fontSize: 15, fontWeight: 500 }}>{panel.title}</div>;
  const foreign = panel.targets.some(({ expr }) => FOREIGN.test(expr));
  const frames = framesOf(panel, answers.panels[panel.id] ?? {}, span, theme);
  return (
    <div style={size}>
      <PanelChrome title={panel.title} width={size.width} height={size.height} padding={panel.type === 'table' ? 'none' : 'md'}>
        {(width, height) => {
          const room = { width, height };
          return foreign ? <Foreign {...room} /> : <Panel {...room} panel={panel} frames={frames} span={span} theme={theme} shades={shades()} />;
        }}
      </PanelChrome>
    </div>
  );
}

const bottom = Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h));

createRoot(document.getElementById('board')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles hackNoBackdropBlur isExtensionSidebarOpen={false} />
    <PanelContextProvider value={{ eventBus: new EventBusSrv() }}>
      <div style={{ position: 'relative', width, height: HEADER + bottom * (ROW + GAP) + GAP, background: theme.colors.background.canvas }}>
        <Header />
        {board.panels.map((panel) => <Titled key={panel.id} panel={panel} />)}
      </div>
    </PanelContextProvider>
  </ThemeContext.Provider>,
);
