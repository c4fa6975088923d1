//! `status --watch`: the table again and again, in place.
//!
//! Only what has changed moves on the screen: each line is written over the old one and its rest is cleared, so that
//! nothing flickers.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use anyhow::{Result, ensure};
use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue, style::Print};

use crate::fleet::{Fleet, Round};
use crate::paint::Paint;
use crate::report::Filter;
use crate::status::Asked;
use crate::table::{Style, table};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Lines that are not rows of upstreams: headline, headings, notes, the last line.
const FRAME: usize = 12;

/// The terminal, as it was, once this is gone: also after an error.
struct Screen;

impl Screen {
    fn enter() -> Result<Screen> {
        enable_raw_mode()?;
        let screen = Screen;
        // A long line must not push the others down.
        execute!(stdout(), EnterAlternateScreen, DisableLineWrap, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(stdout(), cursor::Show, EnableLineWrap, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Shows the fleet until somebody presses q, and gives what was seen last.
///
/// # Errors
/// The source cannot be asked at first, or standard output is no terminal. Later failures are shown, and asked again.
pub async fn until_quit(source: &Asked, filter: &Filter, all: bool) -> Result<Fleet> {
    ensure!(stdout().is_terminal(), "--watch needs a terminal");
    let mut earlier: Option<Round> = None;
    let mut fleet = source.fleet_since(&mut earlier).await?;
    let mut complaint = String::new();
    let screen = Screen::enter()?;
    loop {
        draw(&fleet, filter, all, &complaint)?;
        if tokio::task::spawn_blocking(|| quit_within(EVERY)).await?? {
            break;
        }
        match source.fleet_since(&mut earlier).await {
            Ok(seen) => (fleet, complaint) = (seen, String::new()),
            Err(why) => complaint = format!("{why:#}"),
        }
    }
    drop(screen);
    Ok(fleet)
}

/// Whether a person wants to leave, before the time is over.
fn quit_within(time: Duration) -> std::io::Result<bool> {
    let end = std::time::Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        if !poll(left)? {
            return Ok(false);
        }
        match read()? {
            Event::Key(key) if matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) => return Ok(true),
            Event::Key(key) if key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL => {
                return Ok(true);
            }
            // The size has changed: draw at once.
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
}

fn draw(fleet: &Fleet, filter: &Filter, all: bool, complaint: &str) -> Result<()> {
    let (columns, lines) = size()?;
    let paint = Paint::of_stdout();
    let rows = usize::from(lines).saturating_sub(FRAME).max(1);
    let text = table(fleet, filter, Style { paint, width: usize::from(columns), rows, all });
    let mut out = stdout().lock();
    queue!(out, BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
    for line in text.lines().take(usize::from(lines).saturating_sub(1)) {
        queue!(out, Print(line), Clear(ClearType::UntilNewLine), cursor::MoveToNextLine(1))?;
    }
    let last = if complaint.is_empty() {
        paint.dim("  every 2 s; q ends")
    } else {
        paint.warn(&format!("! these are the last numbers; now: {complaint}"))
    };
    queue!(out, Print(last), Clear(ClearType::UntilNewLine), Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
    out.flush()?;
    Ok(())
}
