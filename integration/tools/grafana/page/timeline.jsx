// A state timeline: one row for each series, and a stretch for each state with its word.
const LEGEND = 26;
const AXIS = 20;
const WORD = 7;
const TICK = 90;

// Stretches of equal values; nothing where there is no value.
function stretches(times, values) {
  const found = [];
  values.forEach((value, at) => {
    const last = found[found.length - 1];
    const until = times[at + 1] ?? times[at];
    if (value === null) return;
    if (last && last.value === value && last.until === times[at]) last.until = until;
    else found.push({ value, from: times[at], until });
  });
  return found;
}

function clock(time) {
  return new Date(time).toISOString().slice(11, 19);
}

export function Timeline({ panel, frames, span, width, height, theme }) {
  const rows = frames.map((frame) => {
    const field = frame.fields.find((field) => field.type === 'number');
    return { name: field.state.displayName, field, stretches: stretches(frame.fields[0].values, field.values) };
  });
  const label = Math.min(Math.max(...rows.map(({ name }) => name.length)) * 6.6 + 16, width * 0.42);
  const room = height - LEGEND - AXIS;
  const step = Math.min(room / rows.length, 40);
  const at = (time) => label + ((time - span.from) / (span.until - span.from)) * (width - label - 8);
  const text = { fill: theme.colors.text.secondary, fontSize: 12, fontFamily: theme.typography.fontFamily };
  const count = Math.floor((width - label) / TICK);
  const ticks = Array.from({ length: count }, (_, part) => span.from + ((span.until - span.from) * (part + 0.5)) / count);
  let right = 4;
  const legend = Object.values(panel.fieldConfig.defaults.mappings[0].options).map((entry) => {
    const left = right;
    right += 34 + entry.text.length * WORD;
    return { ...entry, left };
  });
  return (
    <svg width={width} height={height}>
      {rows.map(({ name, field, stretches }, row) => (
        <g key={name}>
          <text {...text} x={label - 10} y={row * step + step / 2 + 4} textAnchor="end">{name}</text>
          {stretches.map(({ value, from, until }) => {
            const { text: word, color } = field.display(value);
            const [left, right] = [at(from), at(until)];
            return (
              <g key={from}>
                <rect x={left} y={row * step + step * 0.1} width={Math.max(right - left, 1)} height={step * 0.8} fill={color} fillOpacity={0.8} />
                {right - left > word.length * WORD + 12 && (
                  <text {...text} fill={theme.colors.getContrastText(color)} x={(left + right) / 2} y={row * step + step / 2 + 4} textAnchor="middle">
                    {word}
                  </text>
                )}
              </g>
            );
          })}
        </g>
      ))}
      {ticks.map((time) => (
        <text {...text} key={time} x={at(time)} y={rows.length * step + 15} textAnchor="middle">{clock(time)}</text>
      ))}
      {legend.map(({ text: word, color, left }) => (
        <g key={word} transform={`translate(${left}, ${height - 10})`}>
          <rect width={14} height={4} y={-6} rx={2} fill={theme.visualization.getColorByName(color)} />
          <text {...text} x={20}>{word}</text>
        </g>
      ))}
    </svg>
  );
}
