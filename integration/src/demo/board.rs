//! The live view: a small dashboard on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Sparkline, Table};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use super::summary::Run;
use super::{LENGTH, Side, phases};
use crate::scenario::State;

/// Rows of the dashboard.
const HEIGHT: u16 = 15;

/// Shows a run while it goes on.
pub enum Board {
    /// A dashboard that redraws itself in place.
    Live(Box<Terminal<CrosstermBackend<io::Stdout>>>),
    /// A line a second.
    Lines {
        /// Seconds that are printed.
        printed: u64,
    },
}

impl Board {
    /// A dashboard on a terminal, lines in a file.
    ///
    /// # Errors
    /// The terminal does not answer.
    pub fn new() -> io::Result<Board> {
        if !io::stdout().is_terminal() {
            println!("{:>4}  {:<14} {:<10} {:>44} {:>44}", "s", "upstream", "circuit", "without", "with breaker");
            return Ok(Board::Lines { printed: 0 });
        }
        let options = TerminalOptions { viewport: Viewport::Inline(HEIGHT) };
        Ok(Board::Live(Box::new(Terminal::with_options(CrosstermBackend::new(io::stdout()), options)?)))
    }

    /// Leaves the last picture where it is, so that the next output comes below it.
    ///
    /// # Errors
    /// The terminal does not answer.
    pub fn end(self) -> io::Result<()> {
        if let Board::Live(mut terminal) = self {
            let bottom = terminal.get_frame().area().bottom().saturating_sub(1);
            terminal.set_cursor_position((0, bottom))?;
            println!();
        }
        Ok(())
    }

    /// Shows how far the run is.
    ///
    /// # Errors
    /// The terminal does not answer.
    pub fn show(&mut self, run: &Run, elapsed: Duration) -> io::Result<()> {
        match self {
            Board::Live(terminal) => {
                terminal.draw(|frame| draw(frame, run, elapsed))?;
            }
            Board::Lines { printed } => {
                // The second before the last one: its requests are answered, or they wait for a timeout that shows in
                // the table.
                while *printed + 1 < elapsed.as_secs() {
                    println!("{}", line(run, *printed));
                    *printed += 1;
                }
            }
        }
        Ok(())
    }
}

fn phase_at(second: u64) -> &'static str {
    phases().iter().rev().find(|phase| phase.from.as_secs() <= second).map_or("", |phase| phase.name)
}

fn state_at(run: &Run, at: Duration) -> State {
    run.states.iter().take_while(|(seen, _)| *seen <= at).last().map_or(State::Closed, |(_, state)| *state)
}

/// The state as people read it.
#[must_use]
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Closed => "CLOSED",
        State::HalfOpen => "HALF_OPEN",
        State::Open => "OPEN",
    }
}

fn state_color(state: State) -> Color {
    match state {
        State::Closed => Color::Green,
        State::HalfOpen => Color::Yellow,
        State::Open => Color::Red,
    }
}

fn line(run: &Run, second: u64) -> String {
    let side = |side: Side| {
        let [good, failed, fast] = run.second(side, second);
        let p95 = run.p95(side, second).as_millis();
        format!("{good:>4} ok {failed:>4} failed {fast:>4} rejected  p95 {p95:>4} ms")
    };
    let state = state_word(state_at(run, Duration::from_secs(second + 1)));
    let sides = Side::BOTH.map(side);
    format!("{second:>4}  {:<14} {state:<10} {:>44} {:>44}", phase_at(second), sides[0], sides[1])
}

fn draw(frame: &mut Frame<'_>, run: &Run, elapsed: Duration) {
    let [head, progress, table, charts] =
        Layout::vertical([Constraint::Length(2), Constraint::Length(1), Constraint::Length(6), Constraint::Length(6)])
            .areas(frame.area());
    let state = state_at(run, elapsed);
    let title = Line::from(vec![
        Span::raw(" upstream "),
        Span::styled(phase_at(elapsed.as_secs()), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw("   circuit "),
        Span::styled(format!(" {} ", state_word(state)), Style::new().fg(Color::Black).bg(state_color(state))),
        Span::raw(format!("   trips {}", run.trips)),
    ]);
    frame.render_widget(Paragraph::new(title), head);
    let done = (elapsed.as_secs_f64() / LENGTH.as_secs_f64()).clamp(0.0, 1.0);
    let label = format!("{} of {} s", elapsed.as_secs().min(LENGTH.as_secs()), LENGTH.as_secs());
    frame.render_widget(Gauge::default().ratio(done).label(label).gauge_style(Color::Blue), progress);
    frame.render_widget(figures(run, elapsed), table);
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(charts);
    for (side, area) in Side::BOTH.into_iter().zip([left, right]) {
        let width = u64::from(area.width.saturating_sub(2));
        let now = elapsed.as_secs();
        let points: Vec<u64> = (now.saturating_sub(width)..now).map(|second| run.arrivals_in(side, second)).collect();
        let title = format!(" requests a second that reach the upstream, {} ", side.label());
        let color = if side == Side::With { Color::Green } else { Color::Red };
        frame.render_widget(Sparkline::default().block(Block::bordered().title(title)).data(points).fg(color), area);
    }
}

/// What happened in the last whole second.
fn figures(run: &Run, elapsed: Duration) -> Table<'static> {
    // Requests of the very last second may still wait for their answers.
    let second = elapsed.as_secs().saturating_sub(2);
    let row = |side: Side| {
        let [good, failed, fast] = run.second(side, second);
        let all = (good + failed + fast).max(1);
        Row::new([
            side.label().to_owned(),
            (good + failed + fast).to_string(),
            format!("{} %", good * 100 / all),
            failed.to_string(),
            fast.to_string(),
            format!("{} ms", run.p95(side, second).as_millis()),
        ])
    };
    let widths = [14, 8, 9, 8, 10, 10].map(Constraint::Length);
    let head = Row::new(["", "rps", "success", "failed", "rejected", "p95"]).style(Style::new().dim());
    Table::new(Side::BOTH.map(row), widths).header(head).block(Block::bordered().title(" clients, each second "))
}
