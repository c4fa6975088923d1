//! The picture over time. For each upstream: what it did with requests, its circuit's state, and how many were
//! rejected.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::evidence::Evidence;
use super::fault::Fault;
use super::journal::{At, Span, What};
use super::log::Stretch;
use super::report::phases;
use super::upstreams::UPSTREAMS;
use crate::scenario::State;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 1200;
/// Space for names, and right of the bands.
const LEFT: i32 = 110;
const RIGHT: i32 = 20;
const HEAD: i32 = 76;
/// Height of an upstream's three bands: fault, state, rejections.
const ROW: i32 = 62;
const BAND: i32 = 17;
const FOOT: i32 = 70;

const CLOSED: RGBColor = RGBColor(20, 125, 80);
const HALF_OPEN: RGBColor = RGBColor(230, 160, 40);
const OPEN: RGBColor = RGBColor(200, 60, 50);
const FORCED: RGBColor = RGBColor(120, 40, 90);
const QUIET: RGBColor = RGBColor(238, 238, 238);
const INK: RGBColor = RGBColor(40, 40, 40);

fn fault_color(fault: Fault) -> RGBColor {
    match fault {
        Fault::Healthy => RGBColor(222, 240, 226),
        Fault::Errors => RGBColor(246, 200, 194),
        Fault::Reset => RGBColor(240, 190, 222),
        Fault::Hang => RGBColor(205, 200, 240),
        Fault::Refuse => RGBColor(205, 205, 205),
        Fault::Slow => RGBColor(250, 232, 180),
        Fault::GoAway => RGBColor(190, 220, 245),
    }
}

fn state_color(stretch: &Stretch) -> RGBColor {
    match stretch.state {
        State::Closed => CLOSED,
        State::HalfOpen => HALF_OPEN,
        State::Open if stretch.is_forced() => FORCED,
        State::Open => OPEN,
    }
}

/// Draws it.
///
/// # Errors
/// It cannot be drawn.
pub fn draw(evidence: &Evidence, seed: u64) -> Result<String> {
    let height = HEAD + ROW * i32::try_from(UPSTREAMS.len())? + FOOT;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height.unsigned_abs())).into_drawing_area();
        root.fill(&WHITE)?;
        let canvas = Canvas { area: &root, end: evidence.end.max(1.0) };
        canvas.head(evidence, seed)?;
        for (at, (upstream, _)) in UPSTREAMS.iter().enumerate() {
            canvas.row(evidence, upstream, HEAD + ROW * i32::try_from(at)?)?;
        }
        canvas.foot(evidence, height - FOOT)?;
        root.present()?;
    }
    svg.push('\n');
    Ok(svg)
}

struct Canvas<'a, 'b> {
    area: &'a Area<'b>,
    end: At,
}

impl Canvas<'_, '_> {
    #[allow(clippy::cast_possible_truncation)]
    fn x(&self, at: At) -> i32 {
        let width = f64::from(WIDTH - LEFT - RIGHT);
        LEFT + ((at / self.end).clamp(0.0, 1.0) * width) as i32
    }

    fn text(&self, text: &str, (x, y): (i32, i32), size: i32, from: HPos) -> Result<()> {
        let style = ("sans-serif", size).into_font().color(&INK).pos(Pos::new(from, VPos::Center));
        self.area.draw(&Text::new(text.to_owned(), (x, y), style))?;
        Ok(())
    }

    fn band(&self, span: &Span, top: i32, height: i32, color: RGBColor) -> Result<()> {
        // Every event leaves at least a line.
        let (left, right) = (self.x(span.from), self.x(span.to).max(self.x(span.from) + 1));
        self.area.draw(&Rectangle::new([(left, top), (right, top + height)], color.filled()))?;
        Ok(())
    }

    fn head(&self, evidence: &Evidence, seed: u64) -> Result<()> {
        let title =
            format!("A soak of {:.0} s, seed {seed}: upstreams, their circuits, and who was rejected", evidence.end);
        self.text(&title, (12, 18), 17, HPos::Left)?;
        let faults =
            [Fault::Healthy, Fault::Errors, Fault::Reset, Fault::Hang, Fault::Refuse, Fault::Slow, Fault::GoAway];
        let faults = faults.map(|fault| (fault.word(), fault_color(fault)));
        let states = [("CLOSED", CLOSED), ("HALF_OPEN", HALF_OPEN), ("OPEN", OPEN), ("forced", FORCED)];
        let rest = [("rejections", INK), ("no traffic", QUIET)];
        let mut x = 12;
        for (word, color) in faults.into_iter().chain(states).chain(rest) {
            self.area.draw(&Rectangle::new([(x, 40), (x + 14, 54)], color.filled()))?;
            self.text(word, (x + 20, 47), 13, HPos::Left)?;
            x += 38 + 8 * i32::try_from(word.len())?;
        }
        Ok(())
    }

    fn row(&self, evidence: &Evidence, upstream: &str, top: i32) -> Result<()> {
        let label = UPSTREAMS.iter().find(|(name, _)| *name == upstream).map(|(_, protocol)| protocol.word());
        self.text(upstream, (12, top + BAND / 2), 15, HPos::Left)?;
        self.text(label.unwrap_or_default(), (12, top + BAND + BAND / 2), 12, HPos::Left)?;
        self.band(&Span { from: 0.0, to: self.end }, top, 3 * BAND, QUIET)?;
        for traffic in &evidence.entries.traffic {
            self.band(traffic, top, BAND, fault_color(Fault::Healthy))?;
            self.band(traffic, top + 2 * BAND, BAND, WHITE)?;
        }
        for (span, fault) in phases(evidence, upstream).iter().filter(|(_, fault)| *fault != Fault::Healthy) {
            self.band(span, top, BAND, fault_color(*fault))?;
            if self.x(span.to) - self.x(span.from) > 8 * i32::try_from(fault.word().len())? {
                self.text(fault.word(), (self.x(span.from) + 3, top + BAND / 2), 11, HPos::Left)?;
            }
        }
        for stretch in evidence.life(upstream) {
            self.band(&stretch.span, top + BAND, BAND, state_color(&stretch))?;
        }
        self.rejections(evidence, upstream, top + 3 * BAND)
    }

    /// How many were rejected at each pixel. The fullest pixel has a line of the band's height.
    fn rejections(&self, evidence: &Evidence, upstream: &str, bottom: i32) -> Result<()> {
        let mut counts = vec![0_i32; usize::try_from(WIDTH)?];
        for rejection in evidence.rejections().iter().filter(|rejection| rejection.upstream == upstream) {
            counts[usize::try_from(self.x(rejection.span.to))?] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        for (x, count) in counts.into_iter().enumerate().filter(|(_, count)| *count > 0) {
            let x = i32::try_from(x)?;
            let height = (BAND * count / most).max(2);
            self.area.draw(&Rectangle::new([(x, bottom - height), (x + 1, bottom)], INK.filled()))?;
        }
        Ok(())
    }

    fn foot(&self, evidence: &Evidence, top: i32) -> Result<()> {
        self.text("updates", (12, top + BAND / 2), 13, HPos::Left)?;
        for update in &evidence.entries.updates {
            let color = if update.what == What::Bad { OPEN } else { CLOSED };
            self.band(&Span { to: update.span.from, ..update.span }, top, BAND, color)?;
        }
        if let Some(trap) = &evidence.trap {
            self.band(trap, top, BAND, INK)?;
            self.text("a VM traps", (self.x(trap.to) + 4, top + BAND / 2), 11, HPos::Left)?;
        }
        self.text("green: taken, red: refused", (WIDTH - RIGHT, top + 2 * BAND + 26), 11, HPos::Right)?;
        let axis = top + BAND + 8;
        self.area.draw(&PathElement::new(vec![(LEFT, axis), (WIDTH - RIGHT, axis)], INK.stroke_width(1)))?;
        let step =
            [5.0, 10.0, 30.0, 60.0, 300.0, 600.0].into_iter().find(|step| self.end / step <= 15.0).unwrap_or(3600.0);
        let mut at = 0.0;
        while at <= self.end {
            let x = self.x(at);
            self.area.draw(&PathElement::new(vec![(x, axis), (x, axis + 5)], INK.stroke_width(1)))?;
            self.text(&format!("{at:.0} s"), (x, axis + 14), 12, HPos::Center)?;
            at += step;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::journal::{Call, End, Phase};
    use crate::soak::log::Transition;

    #[test]
    fn the_picture_shows_faults_states_and_rejections() {
        let mut evidence = Evidence { end: 60.0, ..Evidence::default() };
        let empty = draw(&evidence, 7).unwrap();
        assert!(empty.contains("seed 7") && empty.contains("u8"), "{empty}");
        let upstream = "u3".to_owned();
        let rectangles = |svg: &str, color: &str| svg.matches(color).count();
        evidence.entries.phases = vec![Phase { upstream: upstream.clone(), from: 10.0, fault: Fault::Hang }];
        let (from, to) = (State::Closed, State::Open);
        let reason = "consecutive".to_owned();
        evidence.transitions =
            vec![Transition { at: 12.0, upstream: upstream.clone(), generation: 1, from, to, reason }];
        let span = Span { from: 20.0, to: 20.1 };
        evidence.entries.calls = vec![Call { id: 1, upstream, span, end: End::Rejected("open".to_owned()) }];
        let full = draw(&evidence, 7).unwrap();
        // The legend has each color once.
        for color in ["#CDC8F0", "#C83C32"] {
            assert_eq!(rectangles(&full, color), rectangles(&empty, color) + 1, "{color}");
        }
        assert!(full.len() > empty.len());
    }
}
