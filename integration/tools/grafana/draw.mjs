// Draws the dashboards as pictures: node draw.mjs MODULES ANSWERS DASHBOARDS PICTURES
//
// MODULES has this directory's node_modules, ANSWERS is what `make test-monitoring` has kept. Chromium takes the pictures.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const [modules, answersFile, dashboards, pictures] = process.argv.slice(2);
const here = dirname(fileURLToPath(import.meta.url));
const { buildSync } = createRequire(join(modules, 'package.json'))('esbuild');

// A page of this width is legible when GitHub shows it at 1,000 pixels.
const WIDTH = 1400;
const [HEADER, ROW, GAP] = [44, 38, 8];

// Their modules for `import` take a CommonJS default for a component; those for `require` do not.
const grafana = ['ui', 'data', 'schema', 'i18n'].map((name) => {
  const { exports } = JSON.parse(readFileSync(join(modules, `node_modules/@grafana/${name}/package.json`)));
  return [`@grafana/${name}`, join(modules, `node_modules/@grafana/${name}`, exports['.'].require.default ?? exports['.'].require)];
});

const { outputFiles } = buildSync({
  entryPoints: [join(here, 'page/board.jsx')], bundle: true, write: false, minify: true, jsx: 'automatic', format: 'iife', logLevel: 'error',
  nodePaths: [join(modules, 'node_modules')], alias: Object.fromEntries(grafana), define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.woff2': 'empty', '.svg': 'empty', '.png': 'empty', '.ttf': 'empty' }, outdir: '/drawn',
});
const code = (ending) => outputFiles.find(({ path }) => path.endsWith(ending)).text;
const bundle = code('.js').replaceAll('</script', '<\\/script');

// The dashboard with one of its rows only, at the top.
function cut(board, row) {
  if (!row) return board;
  const begin = board.panels.findIndex(({ title }) => title === row);
  const end = board.panels.findIndex(({ type }, at) => at > begin && type === 'row');
  const panels = board.panels.slice(begin, end === -1 ? undefined : end);
  const top = panels[0].gridPos.y;
  return { ...board, panels: panels.map((panel) => ({ ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y - top } })) };
}

const work = mkdtempSync(join(tmpdir(), 'circuit-breaker-pictures-'));
mkdirSync(pictures, { recursive: true });
try {
  for (const answers of JSON.parse(readFileSync(answersFile))) {
    const board = cut(JSON.parse(readFileSync(join(dashboards, `${answers.uid}.json`))), answers.row);
    const height = HEADER + GAP + ROW * Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h));
    const drawing = JSON.stringify({ board, answers, width: WIDTH }).replaceAll('</script', '<\\/script');
    const page = join(work, `${answers.name}.html`);
    writeFileSync(page, `<!doctype html><meta charset="utf-8"><style>body{margin:0}${code('.css')}</style><div id="board"></div>
<script>window.drawing=${drawing};</script><script>${bundle}</script>`);
    const picture = join(pictures, `${answers.name}.png`);
    execFileSync('chromium', [
      '--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--force-device-scale-factor=1', `--user-data-dir=${join(work, 'profile')}`,
      `--window-size=${WIDTH},${height}`, '--virtual-time-budget=8000', `--screenshot=${picture}`, `file://${page}`,
    ], { stdio: 'ignore' });
    // A few colours suffice, and the repository keeps each version for ever.
    execFileSync('pngquant', ['--force', '--ext', '.png', '--skip-if-larger', '--strip', '128', picture]);
    console.log(picture);
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
