// The panels, by Grafana's own components. The state timeline is drawn here: Grafana keeps its own inside the server's program.
import { BarGauge, BigValue, Table, TimeSeries, VizRepeater } from '@grafana/ui';
import { dateTime, getDisplayProcessor } from '@grafana/data';
import { lastValues } from './frames.js';
import { Timeline } from './timeline.jsx';

const range = ({ from, until }) => ({ from: dateTime(from), to: dateTime(until), raw: { from: dateTime(from), to: dateTime(until) } });

function Stat({ panel, frames, width, height, theme }) {
  const { options, fieldConfig } = panel;
  const field = { type: 'number', name: '', config: fieldConfig.defaults };
  const nothing = [{ value: { ...getDisplayProcessor({ field, theme })(null), title: '' }, frame: null }];
  const values = frames.length ? lastValues(frames) : nothing;
  return (
    <VizRepeater
      source={values} width={width} height={height} orientation="auto" itemSpacing={3} getValues={() => values} renderCounter={0}
      renderValue={({ value: { value, frame, field }, width, height }) => (
        <BigValue
          value={value} width={width} height={height} theme={theme} colorMode={options.colorMode} graphMode={options.graphMode}
          textMode={values.length > 1 ? 'value_and_name' : 'value'} count={values.length} justifyMode="auto" wideLayout
          sparkline={options.graphMode === 'area' && frame ? { y: field, x: frame.fields[0] } : undefined}
        />
      )}
    />
  );
}

function Lines({ panel, frames, span, width, height, theme, shades }) {
  const shade = (builder) => {
    builder.addHook('drawClear', (plot) => {
      plot.ctx.fillStyle = theme.visualization.getColorByName('semi-dark-red') + '1f';
      for (const [from, until] of shades) {
        const [left, right] = [from, until].map((time) => plot.valToPos(Math.min(Math.max(time, span.from), span.until), 'x', true));
        plot.ctx.fillRect(left, plot.bbox.top, right - left, plot.bbox.height);
      }
    });
    return null;
  };
  return (
    <TimeSeries frames={frames} width={width} height={height} timeRange={range(span)} timeZone="utc" legend={panel.options.legend}>
      {shade}
    </TimeSeries>
  );
}

function Bars({ panel, frames, width, height, theme }) {
  const values = lastValues(frames).sort((one, other) => other.value.numeric - one.value.numeric);
  const max = Math.max(...values.map(({ value }) => value.numeric));
  return (
    <VizRepeater
      source={values} width={width} height={height} orientation="horizontal" itemSpacing={6} getValues={() => values} renderCounter={0}
      minVizHeight={panel.options.minVizHeight} maxVizHeight={panel.options.maxVizHeight}
      renderValue={({ value: { value, field }, width, height, alignmentFactors }) => (
        <BarGauge
          value={value} field={{ ...field.config, max }} display={field.display} theme={theme} width={width} height={height}
          orientation="horizontal" displayMode="basic" itemSpacing={6} lcdCellWidth={8} showUnfilled valueDisplayMode="text"
          namePlacement="left" alignmentFactors={alignmentFactors}
        />
      )}
      getAlignmentFactors={(values) => ({
        title: values.reduce((longest, { value }) => (value.title.length > longest.length ? value.title : longest), ''),
        text: values.reduce((longest, { value }) => (value.text.length > longest.length ? value.text : longest), ''),
      })}
    />
  );
}

function Rows({ panel, frames, width, height }) {
  return <Table data={frames[0]} width={width} height={height} initialSortBy={panel.options.sortBy} cellHeight="sm" />;
}

const KINDS = { stat: Stat, timeseries: Lines, bargauge: Bars, table: Rows, 'state-timeline': Timeline };

function Nothing({ panel, theme, width, height }) {
  const style = { width, height, display: 'flex', alignItems: 'center', justifyContent: 'center', color: theme.colors.text.secondary };
  return <div style={style}>{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
}

export function Panel(properties) {
  const Kind = properties.frames.length === 0 && properties.panel.type !== 'stat' ? Nothing : KINDS[properties.panel.type];
  return <Kind {...properties} />;
}
