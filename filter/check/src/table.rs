//! The table of `status`: what a person reads at three in the morning.
//!
//! Upstreams that are well are counted and not listed: among four hundred the two that are sick must be on the screen.

use std::fmt::Write;

use circuit_breaker_core::Upstream as Name;

use crate::fleet::{Fleet, Upstream};
use crate::look::State;
use crate::paint::Paint;
use crate::report::{Filter, by_harm, by_size, modes, reopens_in, states};

/// How to show it.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With colours or without.
    pub paint: Paint,
    /// Columns of the terminal.
    pub width: usize,
    /// Rows at most; the rest is counted.
    pub rows: usize,
    /// Whether upstreams that are well are listed too.
    pub all: bool,
}

/// Proxies that a line names before it counts the rest.
const NAMED: usize = 3;

/// Reasons that a row names; where a terminal is narrow it names one.
const REASONS: usize = 2;

const HEADINGS: [&str; 7] = ["UPSTREAM", "STATE", "PROXIES", "PROBE IN", "REJECTED/S", "TRIPPED BY", "MODE"];

/// Numbers end where their column ends.
const NUMBERS: [bool; 7] = [false, false, true, true, true, false, false];

/// The column that gives way where a terminal is narrow, and the letters that it keeps.
const NAME: usize = 0;
const LEAST_NAME: usize = 16;

/// The whole answer.
#[must_use]
pub fn table(fleet: &Fleet, filter: &Filter, style: Style) -> String {
    let rows = by_harm(fleet, filter);
    let mut out = format!("{}\n", headline(fleet, &rows, style.paint));
    let (listed, well): (Vec<_>, Vec<_>) = rows.iter().partition(|(_, upstream)| style.all || is_harmed(upstream));
    let shown = listed.get(..style.rows).unwrap_or(&listed);
    if !shown.is_empty() {
        let cells =
            |reasons: usize| shown.iter().map(|(name, upstream)| cells(name, upstream, fleet.at, reasons)).collect();
        let mut fitting: Vec<[String; 7]> = cells(REASONS);
        if whole(widths(&fitting)) > style.width {
            fitting = cells(1);
        }
        let states: Vec<_> = shown.iter().map(|(_, upstream)| upstream.state()).collect();
        out.push('\n');
        out.push_str(&lines(&fitting, &states, style));
    }
    let notes = notes(fleet, listed.len() - shown.len(), well.len(), style.paint);
    if !notes.is_empty() {
        let _ = write!(out, "\n{notes}");
    }
    out
}

/// Whether its users notice, or somebody should.
fn is_harmed(upstream: &Upstream) -> bool {
    upstream.state() != State::Closed || upstream.rejected_per_second.is_some_and(|rate| rate > 0.0)
}

fn headline(fleet: &Fleet, rows: &[(&str, &Upstream)], paint: Paint) -> String {
    let states = states(rows);
    let word = |state: State| {
        let text = format!("{} {}", states[&state], state.word());
        if states[&state] == 0 { paint.dim(&text) } else { paint.state(state, &text) }
    };
    let proxies = counted(fleet.proxies, "proxy", "proxies");
    format!("{}   {}   {}   in {proxies}", word(State::Open), word(State::HalfOpen), word(State::Closed))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A host as people say it, with port and subset where the name has them.
#[must_use]
pub fn short(name: &str) -> String {
    let parts = Name::parse(name);
    let host = parts.host.strip_suffix(".svc.cluster.local").unwrap_or(parts.host);
    let port = parts.port.map_or(String::new(), |port| format!(":{port}"));
    let subset = parts.subset.map_or(String::new(), |subset| format!(" {subset}"));
    format!("{host}{port}{subset}")
}

fn cells(name: &str, upstream: &Upstream, now: f64, most: usize) -> [String; 7] {
    let state = upstream.state();
    let so = match state {
        State::Open => upstream.open,
        State::HalfOpen => upstream.half_open,
        State::Closed => upstream.closed,
    };
    let mut reasons: Vec<_> = by_size(&upstream.trips);
    let more = reasons.len().saturating_sub(most);
    reasons.truncate(most);
    let mut reasons: Vec<_> = reasons.iter().map(|(word, count)| format!("{word} {count}")).collect();
    if more > 0 {
        reasons.push(format!("+{more}"));
    }
    [
        short(name),
        state.word().to_owned(),
        format!("{so} of {}", upstream.proxies()),
        reopens_in(upstream, now).map_or("–".to_owned(), duration),
        rejected(upstream),
        if reasons.is_empty() { "–".to_owned() } else { reasons.join(", ") },
        modes(&upstream.modes),
    ]
}

/// What is rejected; in observe, what would be.
fn rejected(upstream: &Upstream) -> String {
    match (upstream.rejected_per_second, upstream.would_reject_per_second) {
        (Some(real), Some(would)) if would > 0.0 && real == 0.0 => format!("(would: {would:.1})"),
        (Some(real), _) if real > 0.0 => format!("{real:.1}"),
        (Some(_), _) => "0".to_owned(),
        (None, _) => "–".to_owned(),
    }
}

/// Seconds, as people say them.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => "now".to_owned(),
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

fn widths(rows: &[[String; 7]]) -> [usize; 7] {
    let mut widths = HEADINGS.map(str::len);
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    widths
}

/// Letters of a line: two before the first column, two between columns.
fn whole(widths: [usize; 7]) -> usize {
    widths.iter().sum::<usize>() + 2 * widths.len()
}

fn lines(rows: &[[String; 7]], states: &[State], style: Style) -> String {
    let mut widths = widths(rows);
    let whole = whole(widths);
    widths[NAME] = widths[NAME].saturating_sub(whole.saturating_sub(style.width)).max(LEAST_NAME.min(widths[NAME]));
    let mut out = format!("  {}\n", style.paint.dim(&line(&HEADINGS.map(str::to_owned), widths)));
    for (row, state) in rows.iter().zip(states) {
        let mut row = row.clone();
        row[NAME] = cut(&row[NAME], widths[NAME]);
        let text = line(&row, widths);
        // Coloured only after it has been measured: codes have no width.
        let coloured =
            text.replacen(&format!("  {}", state.word()), &format!("  {}", style.paint.state(*state, state.word())), 1);
        let mark = if *state == State::Closed { " ".to_owned() } else { style.paint.state(*state, "●") };
        let _ = writeln!(out, "{mark} {coloured}");
    }
    out
}

fn line(cells: &[String; 7], widths: [usize; 7]) -> String {
    let mut out = String::new();
    for ((cell, width), is_number) in cells.iter().zip(widths).zip(NUMBERS) {
        let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
        let _ = if is_number { write!(out, "{gap}{cell}  ") } else { write!(out, "{cell}{gap}  ") };
    }
    out.trim_end().to_owned()
}

/// A name of at most so many letters. Its ends tell more than its middle.
fn cut(name: &str, width: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= width {
        return name.to_owned();
    }
    let (head, tail) = ((width - 1).div_ceil(2), (width - 1) / 2);
    let start: String = letters.iter().take(head).collect();
    let end: String = letters.iter().skip(letters.len() - tail).collect();
    format!("{start}…{end}")
}

/// What else there is to know.
fn notes(fleet: &Fleet, beyond: usize, well: usize, paint: Paint) -> String {
    let mut notes = Vec::new();
    if beyond > 0 {
        notes.push(paint.warn(&format!("! {beyond} more that are harmed have no room here")));
    }
    if well > 0 {
        let upstreams = counted(well as u64, "upstream is", "upstreams are");
        notes.push(paint.dim(&format!("  {upstreams} CLOSED and not listed (--all lists them)")));
    }
    if !fleet.unprotected.is_empty() {
        let count = counted(fleet.unprotected.len() as u64, "proxy runs", "proxies run");
        notes.push(paint.warn(&format!("! {count} without the breaker: {}", named(fleet.unprotected.iter().cloned()))));
    }
    if !fleet.unreachable.is_empty() {
        let count = counted(fleet.unreachable.len() as u64, "proxy", "proxies");
        let named = named(fleet.unreachable.iter().map(|(proxy, why)| format!("{proxy} ({why})")));
        notes.push(paint.warn(&format!("! {count} did not answer: {named}")));
    }
    for (what, several, found) in [("policy", "policies", &fleet.policies), ("module", "modules", &fleet.modules)] {
        let each: Vec<_> = found.iter().map(|(which, proxies)| format!("{which} in {proxies}")).collect();
        match found.len() {
            0 => {}
            1 => notes.push(paint.dim(&format!("  {what} {}", each.join(", ")))),
            count => notes.push(paint.warn(&format!("! {count} {several} at once: {}", each.join(", ")))),
        }
    }
    notes.into_iter().map(|note| note + "\n").collect()
}

fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let names = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const PLAIN: Style = Style { paint: Paint(false), width: 200, rows: usize::MAX, all: false };

    fn sick() -> Upstream {
        Upstream {
            open: 12,
            open_until: Some(123.0),
            trips: [("consecutive".to_owned(), 12.0), ("probe_failed".to_owned(), 3.0), ("latency".to_owned(), 1.0)]
                .into(),
            rejected_per_second: Some(140.24),
            modes: BTreeSet::from([0]),
            ..Upstream::default()
        }
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet { at: 100.0, proxies: 400, ..Fleet::default() };
        fleet.upstreams.insert("outbound|8443|v2|payments.pay.svc.cluster.local".to_owned(), sick());
        for number in 0..397 {
            fleet.upstreams.insert(
                format!("outbound|80||s{number}.shop.svc.cluster.local"),
                Upstream { closed: 400, ..Upstream::default() },
            );
        }
        fleet.unprotected = (1..=5).map(|number| format!("shop/web-{number}")).collect();
        fleet.policies = [("0a1b2c3d".to_owned(), 398), ("77aa0012".to_owned(), 2)].into();
        fleet.modules = [("0.1.0-aa11bb22".to_owned(), 400)].into();
        fleet
    }

    #[test]
    fn the_harmed_are_listed_and_the_rest_is_counted() {
        let text = table(&fleet(), &Filter::default(), PLAIN);
        let expected = "\
1 OPEN   0 HALF_OPEN   397 CLOSED   in 400 proxies

  UPSTREAM              STATE   PROXIES  PROBE IN  REJECTED/S  TRIPPED BY                          MODE
● payments.pay:8443 v2  OPEN   12 of 12      23 s       140.2  consecutive 12, probe_failed 3, +1  enforce

  397 upstreams are CLOSED and not listed (--all lists them)
! 5 proxies run without the breaker: shop/web-1, shop/web-2, shop/web-3 and 2 more
! 2 policies at once: 0a1b2c3d in 398, 77aa0012 in 2
  module 0.1.0-aa11bb22 in 400
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_terminal_has_one_reason_and_then_shorter_names() {
        let row = |width: usize| {
            let text = table(&fleet(), &Filter::default(), Style { width, ..PLAIN });
            text.lines().find(|line| line.starts_with('●')).unwrap().to_owned()
        };
        assert!(row(92).contains("● payments.pay:8443 v2  OPEN") && row(92).contains("  consecutive 12, +2  "));
        assert!(row(88).starts_with("● payments.…:8443 v2  OPEN") && row(88).ends_with("enforce"), "{}", row(88));
        assert!([92, 88].iter().all(|width| row(*width).chars().count() <= *width));
    }

    #[test]
    fn colours_change_no_width() {
        let coloured = table(&fleet(), &Filter::default(), Style { paint: Paint(true), ..PLAIN });
        assert!(coloured.contains("\x1b[1;31mOPEN\x1b[0m"));
        let mut plain = coloured;
        for code in ["1;31", "33", "32", "1", "2", "0"] {
            plain = plain.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(plain, table(&fleet(), &Filter::default(), PLAIN));
    }

    #[test]
    fn with_nothing_wrong_it_is_three_lines() {
        let mut fleet = fleet();
        fleet.upstreams.retain(|_, upstream| upstream.state() == State::Closed);
        (fleet.unprotected, fleet.policies) = (Vec::new(), [("0a1b2c3d".to_owned(), 400)].into());
        let text = table(&fleet, &Filter::default(), PLAIN);
        assert!(
            text.starts_with("0 OPEN   0 HALF_OPEN   397 CLOSED   in 400 proxies\n\n  397 upstreams are CLOSED"),
            "{text}"
        );
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        for (seconds, said) in [(0, "now"), (9, "9 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")] {
            assert_eq!(duration(seconds), said);
        }
    }
}
