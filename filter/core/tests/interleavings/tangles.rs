//! Three workers: one of them is stopped twice, or two are in the middle of each other. These are some hundred
//! thousand meetings.

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::policy::classify::Outcome;

use super::is_diluted;
use super::workers::{BAD, Operation, STARTS, Start, in_order, perform, prepare, seen};

/// How three workers interrupt each other.
#[derive(Clone, Copy, Debug)]
enum Tangle {
    /// The third runs in the middle of the second, which runs in the middle of the first.
    Deep,
    /// The first is stopped twice: once for the second, once for the third.
    Twice,
}

/// The second runs before the first's `call`-th host call, and the third before the `then`-th call of what runs after
/// that.
fn tangled(start: Start, operations: [Operation; 3], tangle: Tangle, call: u64, then: u64) -> Option<String> {
    let (host, workers, now) = prepare(start, 3);
    let told: Rc<RefCell<[Option<&'static str>; 3]>> = Rc::default();
    let run = |which: usize| {
        let (worker, told) = (Rc::clone(&workers[which]), Rc::clone(&told));
        move || {
            let said = perform(&worker, operations[which], now);
            told.borrow_mut()[which] = Some(said);
        }
    };
    let (second, third, inside) = (run(1), run(2), host.clone());
    host.before_call(call, move || match tangle {
        Tangle::Deep => {
            inside.before_call(then, third);
            second();
        }
        Tangle::Twice => {
            second();
            inside.before_call(then, third);
        }
    });
    run(0)();
    let told = told.take();
    let told = [vec![told[0]?], vec![told[1]?], vec![told[2]?]];
    Some(seen(start, &host, &workers, now, &told))
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn three_workers_stopped_anywhere_leave_what_one_of_the_six_orders_leaves() {
    const MET: [Operation; 3] = [Operation::Admit, Operation::Settle(Outcome::Success), Operation::Settle(BAD)];
    let mut explored = 0;
    let mut wrong = Vec::new();
    let all = MET.iter().flat_map(|a| MET.iter().flat_map(move |b| MET.iter().map(move |c| [*a, *b, *c])));
    for (start, operations) in STARTS.iter().flat_map(|start| all.clone().map(move |operations| (*start, operations))) {
        let [first, second, third] = operations.each_ref().map(std::slice::from_ref);
        let legal = ORDERS.map(|order| in_order(start, &[first, second, third], &order));
        for tangle in [Tangle::Deep, Tangle::Twice] {
            for call in 0.. {
                let found: Vec<String> =
                    (0..).map_while(|then| tangled(start, operations, tangle, call, then)).collect();
                if found.is_empty() {
                    break;
                }
                explored += found.len();
                let odd = found.iter().filter(|found| !legal.contains(found) && !is_diluted(start, &operations));
                wrong.extend(odd.map(|found| {
                    format!(
                        "{start:?} {tangle:?} {operations:?} {call}\n  gave {found}\n  not {}",
                        legal.join("\n   or ")
                    )
                }));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {explored} interleavings are no order:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(6)].join("\n")
    );
    assert!(explored > 10_000, "only {explored} interleavings were seen");
}
