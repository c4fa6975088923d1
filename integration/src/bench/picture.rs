//! The picture: each variant with its cost, and how far each measure is from its bound.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Report, figure};
use super::variant::Variant;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 1000;
/// Space for the names of the bars, and for the figures behind them.
const LEFT: i32 = 400;
const RIGHT: i32 = 190;
const LINE: i32 = 24;
const HEAD: i32 = 44;

const OURS: RGBColor = RGBColor(20, 125, 80);
const OTHERS: RGBColor = RGBColor(150, 165, 175);
const OVER: RGBColor = RGBColor(200, 60, 50);

struct Bar {
    name: String,
    value: f64,
    color: RGBColor,
    said: String,
}

/// Draws it.
///
/// # Errors
/// It cannot be drawn.
pub fn draw(report: &Report) -> Result<String> {
    let costs: Vec<Bar> = report
        .costs
        .iter()
        .map(|cost| Bar {
            name: cost.variant.title().to_owned(),
            value: cost.cpu,
            color: if is_ours(cost.variant) { OURS } else { OTHERS },
            said: format!("{:.1} us, {:.0}/s", cost.cpu, cost.rate),
        })
        .collect();
    let bounded = report.rows.iter().filter_map(|row| Some((row, row.must.filter(|must| *must > 0.0)?)));
    let reached: Vec<Bar> = bounded
        .map(|(row, must)| {
            let aim = row.aim.map(|aim| format!(", aim {aim}")).unwrap_or_default();
            Bar {
                name: row.what.clone(),
                value: row.found / must,
                color: if row.found <= must { OURS } else { OVER },
                said: format!("{} (must {must}{aim})", figure(row.found)),
            }
        })
        .collect();
    let height = |bars: &[Bar]| HEAD + LINE * i32::try_from(bars.len()).unwrap_or(0);
    let (upper, whole) = (height(&costs), height(&costs) + height(&reached) + LINE);
    let mut svg = String::new();
    {
        let size = (WIDTH.unsigned_abs(), whole.unsigned_abs());
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (costs_area, reached_area) = root.split_vertically(upper);
        let most = costs.iter().map(|bar| bar.value).fold(1.0, f64::max);
        bars(&costs_area, "Envoy's processor time for a request at full load", &costs, most)?;
        bars(&reached_area, "Measures against what they must be (the line)", &reached, 1.25)?;
        let line = x(1.0, 1.25);
        let ends = vec![(line, HEAD - 6), (line, height(&reached))];
        reached_area.draw(&PathElement::new(ends, BLACK.stroke_width(1)))?;
        root.present()?;
    }
    svg.push('\n');
    Ok(svg)
}

fn is_ours(variant: Variant) -> bool {
    matches!(variant, Variant::Closed | Variant::Open | Variant::Ramp | Variant::Observe)
}

/// Where the bar of a value ends. A value far beyond the scale ends at its edge, and its figure tells.
fn x(value: f64, most: f64) -> i32 {
    let share = (value / most).clamp(0.0, 1.0);
    #[allow(clippy::cast_possible_truncation)]
    let length = (share * f64::from(WIDTH - LEFT - RIGHT)) as i32;
    LEFT + length
}

fn bars(area: &Area<'_>, title: &str, bars: &[Bar], most: f64) -> Result<()> {
    let text = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    area.draw(&Text::new(title.to_owned(), (12, 12), text(17)))?;
    for (at, bar) in bars.iter().enumerate() {
        let top = HEAD + LINE * i32::try_from(at)?;
        let end = x(bar.value, most);
        let right = text(12).pos(Pos::new(HPos::Right, VPos::Center));
        let left = text(12).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(bar.name.clone(), (LEFT - 8, top + LINE / 2 - 2), right))?;
        area.draw(&Rectangle::new([(LEFT, top), (end.max(LEFT + 1), top + LINE - 6)], bar.color.filled()))?;
        area.draw(&Text::new(bar.said.clone(), (end + 8, top + LINE / 2 - 2), left))?;
    }
    Ok(())
}
