//! The results of a run: a picture that shows what a breaker is for, and a page to show to a colleague, in one file
//! that needs nothing else. The page also shows the price.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::board::state_word;
use super::summary::Run;
use super::{LENGTH, Side, phases};
use crate::scenario::State;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const WIDTH: u32 = 1000;
/// Heights of the ribbon and of a panel.
const RIBBON: u32 = 64;
const PANEL: u32 = 232;
const WITH: RGBColor = RGBColor(20, 125, 80);
const WITHOUT: RGBColor = RGBColor(200, 60, 50);
const FAST: RGBColor = RGBColor(230, 160, 40);

type Panel = fn(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, &Run) -> Result<()>;

/// What a breaker is for: a sick upstream gets no load, and nobody waits for it.
const PURPOSE: &[Panel] = &[draw_arrivals, draw_waits];
/// The price: good answers that a half-sick upstream would have given, and a slower return.
const WHOLE: &[Panel] = &[draw_success, draw_arrivals, draw_waits];

/// Writes `index.html` and `demo.svg` into `directory`.
///
/// # Errors
/// The directory cannot be written.
pub fn write(run: &Run, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("demo.svg"), picture(run, PURPOSE)? + "\n")?;
    let page = directory.join("index.html");
    fs::write(&page, html(run, &picture(run, WHOLE)?))?;
    Ok(page)
}

fn html(run: &Run, picture: &str) -> String {
    let rows: String = run
        .table()
        .iter()
        .map(|[name, without, with]| format!("<tr><td>{name}</td><td>{without}</td><td>{with}</td></tr>\n"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>The circuit breaker, seen</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}}\
         svg{{max-width:100%;height:auto}}table{{border-collapse:collapse;margin:1em 0}}\
         td,th{{padding:.3em 1.5em .3em 0;text-align:right;border-bottom:1px solid #ddd}}\
         td:first-child,th:first-child{{text-align:left;white-space:pre}}</style></head><body>\n\
         <h1>One sick upstream, with and without the circuit breaker</h1>\n\
         <p>{} s of steady load, {} requests a second on each side, through one Envoy with {} workers ({}). \
         The breaker tripped {} times.</p>\n{picture}\n\
         <table><tr><th></th><th>without</th><th>with breaker</th></tr>\n{rows}</table>\n\
         <p>The breaker cannot make a sick upstream well. It tells clients at once instead of letting them wait, keeps \
         load off the upstream while it is sick, and lets traffic back step by step: this is why full recovery takes \
         longer with it than without.</p>\n</body></html>\n",
        LENGTH.as_secs(),
        super::load::RATE,
        super::WORKERS,
        run.started_by,
        run.trips,
    )
}

fn picture(run: &Run, panels: &[Panel]) -> Result<String> {
    let mut svg = String::new();
    {
        let height = RIBBON + PANEL * u32::try_from(panels.len())?;
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (ribbon, rest) = root.split_vertically(RIBBON);
        draw_ribbon(&ribbon, run)?;
        for (draw, area) in panels.iter().zip(rest.split_evenly((panels.len(), 1))) {
            draw(&area, run)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn seconds(run: &Run) -> impl Iterator<Item = u64> {
    let last = run.records.iter().map(|record| record.sent.as_secs()).max().unwrap_or(0);
    // The last second is not whole.
    0..last.min(LENGTH.as_secs())
}

/// Space left of the axes' numbers, and right of all panels, so that the ribbon lines up with them.
const LEFT: i32 = 64;
const RIGHT: i32 = 20;

/// The upstream's life and the circuit's state, over the same time as the panels.
fn draw_ribbon(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, run: &Run) -> Result<()> {
    let width = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT);
    #[allow(clippy::cast_possible_truncation)]
    let x = |at: Duration| LEFT + (at.as_secs_f64() / LENGTH.as_secs_f64() * width) as i32;
    let text = |size: i32| ("sans-serif", size).into_font();
    area.draw(&Text::new("upstream", (4, 10), text(12)))?;
    area.draw(&Text::new("circuit", (4, 38), text(12)))?;
    let life = phases();
    for (at, phase) in life.iter().enumerate() {
        let until = life.get(at + 1).map_or(LENGTH, |next| next.from);
        let color = if phase.name.starts_with("healthy") { RGBColor(225, 240, 228) } else { RGBColor(248, 222, 218) };
        area.draw(&Rectangle::new([(x(phase.from), 4), (x(until) - 1, 26)], color.filled()))?;
        area.draw(&Text::new(phase.name, (x(phase.from) + 6, 9), text(13)))?;
    }
    for (at, (from, state)) in run.states.iter().enumerate() {
        let until = run.states.get(at + 1).map_or(LENGTH, |(next, _)| *next).min(LENGTH);
        let color = match state {
            State::Closed => WITH,
            State::HalfOpen => FAST,
            State::Open => WITHOUT,
        };
        area.draw(&Rectangle::new([(x(*from), 32), (x(until), 54)], color.filled()))?;
        let word = state_word(*state);
        // A word wider than its stretch would run into the next one.
        if x(until) - x(*from) > 8 * i32::try_from(word.len())? {
            area.draw(&Text::new(word, (x(*from) + 6, 37), text(12).color(&WHITE)))?;
        }
    }
    Ok(())
}

fn panel<'a, 'b>(
    area: &'a DrawingArea<SVGBackend<'b>, plotters::coord::Shift>,
    title: &str,
    top: f64,
    unit: &str,
) -> Result<Chart<'a, 'b>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin_right(RIGHT)
        .margin_top(6)
        .x_label_area_size(24)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(0.0..LENGTH.as_secs_f64(), 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|x| format!("{x:.0} s"))
        .y_label_formatter(&|y| format!("{y:.0}{unit}"))
        .y_labels(5)
        .label_style(("sans-serif", 12))
        .draw()?;
    for phase in phases().iter().skip(1) {
        let x = phase.from.as_secs_f64();
        chart.draw_series(std::iter::once(PathElement::new(vec![(x, 0.0), (x, top)], BLACK.mix(0.15))))?;
    }
    Ok(chart)
}

fn curve<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, points: Vec<(f64, f64)>, color: RGBColor, name: &str) -> Result<()> {
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], color.stroke_width(2)));
    Ok(())
}

fn legend<'a, 'b: 'a>(chart: &mut Chart<'a, 'b>, position: SeriesLabelPosition) -> Result<()> {
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.2))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}

/// The middle of a second.
#[allow(clippy::cast_precision_loss)]
fn middle(second: u64) -> f64 {
    second as f64 + 0.5
}

#[allow(clippy::cast_precision_loss)]
fn draw_success(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, run: &Run) -> Result<()> {
    let mut chart =
        panel(area, "Requests that got what they asked for, and those told at once that they will not", 105.0, " %")?;
    let share = |side, kind: usize| -> Vec<(f64, f64)> {
        let part = |second| {
            let counts = run.second(side, second);
            let all = counts.iter().sum::<usize>().max(1);
            (middle(second), counts[kind] as f64 * 100.0 / all as f64)
        };
        seconds(run).map(part).collect()
    };
    curve(&mut chart, share(Side::Without, 0), WITHOUT, "good, without")?;
    curve(&mut chart, share(Side::With, 0), WITH, "good, with breaker")?;
    curve(&mut chart, share(Side::With, 2), FAST, "failed fast, with breaker")?;
    legend(&mut chart, SeriesLabelPosition::MiddleRight)
}

#[allow(clippy::cast_precision_loss)]
fn draw_arrivals(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, run: &Run) -> Result<()> {
    let top = f64::from(super::load::RATE) * 1.2;
    let mut chart = panel(area, "Requests a second that reach the upstream", top, "")?;
    for (side, color) in [(Side::Without, WITHOUT), (Side::With, WITH)] {
        let points = seconds(run).map(|second| (middle(second), run.arrivals_in(side, second) as f64)).collect();
        curve(&mut chart, points, color, side.label())?;
    }
    legend(&mut chart, SeriesLabelPosition::MiddleRight)
}

#[allow(clippy::cast_precision_loss)]
fn draw_waits(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, run: &Run) -> Result<()> {
    let waits = |side| -> Vec<(f64, f64)> {
        seconds(run).map(|second| (middle(second), run.p95(side, second).as_secs_f64() * 1000.0)).collect()
    };
    let top = waits(Side::Without).into_iter().chain(waits(Side::With)).map(|(_, wait)| wait).fold(100.0, f64::max);
    let mut chart = panel(area, "How long clients wait (p95)", top * 1.1, " ms")?;
    for (side, color) in [(Side::Without, WITHOUT), (Side::With, WITH)] {
        curve(&mut chart, waits(side), color, side.label())?;
    }
    legend(&mut chart, SeriesLabelPosition::UpperRight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_shows_what_a_breaker_is_for_and_the_page_its_price_too() {
        let price = "got what they asked for";
        let purpose = picture(&Run::default(), PURPOSE).unwrap();
        assert!(purpose.contains("reach the upstream") && purpose.contains("clients wait"), "{purpose}");
        assert!(!purpose.contains(price));
        assert!(picture(&Run::default(), WHOLE).unwrap().contains(price));
    }
}
