//! `status --watch`, in a terminal of its own.
// Tests say what they expect by panicking.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;

use nix::pty::{Winsize, openpty};

const PAGE: &str =
    "circuit_breaker_circuits{} 1\ncircuit_breaker_state{tag=\"outbound|80||cart.shop.svc.cluster.local\"} 2\n";

/// What the terminal was given, and whether the program ended well.
fn watched(name: &str, colours: bool) -> (String, bool) {
    let page = std::env::temp_dir().join(format!("circuit-breaker-watch-{}-{name}", std::process::id()));
    fs::write(&page, PAGE).unwrap();
    let size = Winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_circuit-breaker"));
    command.args(["status", "--watch", "--stats"]).arg(&page).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    if !colours {
        command.env("NO_COLOR", "1");
    }
    let end = || terminal.slave.try_clone().unwrap();
    let mut child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    // The child's ends alone keep the terminal open, so that reading ends with it.
    drop(command);
    drop(terminal.slave);
    let (mut screen, mut seen, mut piece) = (File::from(terminal.master), Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = screen.read(&mut piece) {
        seen.extend(piece.iter().take(length));
        if String::from_utf8_lossy(&seen).contains("q ends") {
            screen.write_all(b"q").unwrap();
        }
    }
    let ended = child.wait().unwrap().success();
    fs::remove_file(page).unwrap();
    (String::from_utf8_lossy(&seen).into_owned(), ended)
}

#[test]
fn it_draws_in_place_until_q_and_leaves_the_terminal_as_it_was() {
    let (seen, ended) = watched("colours", true);
    assert!(ended, "{seen}");
    assert!(seen.contains("cart.shop:80") && seen.contains("\u{1b}[1;31mOPEN\u{1b}[0m"), "{seen}");
    let (enter, leave) = ("\u{1b}[?1049h", "\u{1b}[?1049l");
    assert!(seen.find(enter) < seen.rfind(leave) && seen.contains(enter), "on a screen of its own: {seen}");
    assert!(!seen.contains("\u{1b}[2J"), "a screen that is cleared flickers");
}

#[test]
fn who_wants_no_colours_gets_none() {
    let (seen, ended) = watched("plain", false);
    assert!(ended && seen.contains("● cart.shop:80  OPEN"), "{seen}");
    assert!(!seen.contains("[1;31m"), "{seen}");
}

#[test]
fn without_a_terminal_it_says_so() {
    let page = std::env::temp_dir().join(format!("circuit-breaker-watch-{}-file", std::process::id()));
    fs::write(&page, PAGE).unwrap();
    let answer = Command::new(env!("CARGO_BIN_EXE_circuit-breaker"))
        .args(["status", "--watch", "--stats"])
        .arg(&page)
        .output()
        .unwrap();
    fs::remove_file(page).unwrap();
    assert_eq!(answer.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&answer.stderr).contains("--watch needs a terminal"));
}
