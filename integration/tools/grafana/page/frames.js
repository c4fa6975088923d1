// From Prometheus' answers to Grafana's frames: what its data source, its transformations and its field settings do.
import { getDisplayProcessor, getFieldDisplayName, standardTransformers, toDataFrame } from '@grafana/data';
import { of } from 'rxjs';

// The answers have one point a second.
const STEP = 1000;

const number = (text) => (text === undefined || text === 'NaN' ? null : Number(text));

const legend = (format, labels) => format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? '');

// A series over the whole span, with gaps where it has no point; without a span, as it is.
function overTime(series, target, span) {
  const points = new Map(series.values.map(([time, value]) => [Math.round(time * 1000), value]));
  const first = Math.round(series.values[0][0] * 1000);
  const { from, until } = span ?? { from: first, until: first };
  const times = [];
  for (let time = from + ((first - from) % STEP); time <= until; time += STEP) times.push(time);
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: 'time', values: times },
      {
        name: 'Value', type: 'number', values: times.map((time) => number(points.get(time))), labels: series.metric,
        config: { displayNameFromDS: legend(target.legendFormat, series.metric) },
      },
    ],
  });
}

function atOnce(answer, target, many) {
  const labels = [...new Set(answer.flatMap((series) => Object.keys(series.metric)))].filter((label) => label !== '__name__');
  return toDataFrame({
    refId: target.refId,
    fields: [
      ...labels.map((name) => ({ name, type: 'string', values: answer.map((series) => series.metric[name] ?? '') })),
      { name: many ? `Value #${target.refId}` : 'Value', type: 'number', values: answer.map((series) => number(series.value[1])) },
    ],
  });
}

const TRANSFORMATIONS = Object.fromEntries(Object.values(standardTransformers).map((one) => [one.id, one]));

function transformed(frames, transformations) {
  let result = frames;
  for (const { id, options } of transformations ?? []) {
    of(result).pipe(TRANSFORMATIONS[id].operator({ ...TRANSFORMATIONS[id].defaultOptions, ...options }, { interpolate: (text) => text }))
      .subscribe((frames) => { result = frames; });
  }
  return result;
}

// Defaults, then overrides by name; then how each value is written and coloured.
function configured(frames, { defaults, overrides }, theme) {
  let index = 0;
  for (const frame of frames) {
    for (const field of frame.fields) {
      const named = getFieldDisplayName(field, frame, frames);
      field.config = { ...structuredClone(defaults), ...field.config, custom: { ...defaults.custom } };
      for (const { matcher, properties } of overrides) {
        if (matcher.options !== named) continue;
        for (const { id, value } of properties) {
          if (id.startsWith('custom.')) field.config.custom[id.slice('custom.'.length)] = value;
          else field.config[id] = value;
        }
      }
      delete field.config.links;
      field.state = { ...field.state, displayName: named, seriesIndex: field.type === 'number' ? index++ : 0 };
      field.display = getDisplayProcessor({ field, theme });
      const numbers = field.type === 'number' ? field.values.filter((value) => value !== null) : [];
      const [min, max] = [Math.min(...numbers), Math.max(...numbers)];
      field.state.range = { min, max, delta: max - min };
    }
  }
  return frames;
}

// The frames of a panel; none where its queries found nothing.
export function framesOf(panel, answers, span, theme) {
  const frames = panel.targets.flatMap((target) => {
    const answer = answers[target.refId] ?? [];
    if (target.format === 'table') return [atOnce(answer, target, panel.targets.length > 1)];
    if (target.instant) return answer.map((one) => overTime({ ...one, values: [one.value] }, target, null));
    return answer.map((series) => overTime(series, target, span));
  });
  const found = frames.some((frame) => frame.length > 0);
  return found ? configured(transformed(frames, panel.transformations), panel.fieldConfig, theme) : [];
}

// The values that a panel shows one by one: of each series the last.
export function lastValues(frames) {
  return frames.map((frame) => {
    const field = frame.fields.find((field) => field.type === 'number');
    const last = [...field.values].reverse().find((value) => value !== null);
    return { field, frame, value: { ...field.display(last), title: field.state.displayName } };
  });
}
