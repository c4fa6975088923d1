//! One prober: in every schedule of two workers one of them sends a probe of the breaker's own, and each probe counts once.

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::breaker::permit::Admission;
use circuit_breaker_core::clock::SECOND;
use circuit_breaker_core::policy::classify::Answer;
use circuit_breaker_core::telemetry::metrics::{PROBES, STATE};
use circuit_breaker_core::testing::{Memory, Proxy, Sending};

use super::schedules::{Exhaustive, OnOneThread, config, schedules, wait_for_turn_of_a_call};
use super::workers::A;

type Worker = Rc<RefCell<Breaker<Memory>>>;

/// Two workers whose circuit is OPEN until this very moment. None has looked at the clock since.
fn prepare() -> (Memory, [Worker; 2], u64) {
    let policy = r#"{"default": {"open": {"jitterPercent": 0},
        "halfOpen": {"successThreshold": 2, "activeProbe": {"path": "/", "interval": "1s", "timeout": "2s"}}}}"#;
    let mut proxy = Proxy::start(2, policy);
    proxy.fail(A, 5);
    proxy.pass(29 * SECOND);
    let workers: Vec<Worker> = proxy.vms.drain(..).map(|vm| Rc::new(RefCell::new(vm))).collect();
    (proxy.host.clone(), workers.try_into().unwrap_or_else(|_| panic!("two workers")), proxy.now + SECOND)
}

type Act = fn(&mut Breaker<Memory>, u64);

fn tick(vm: &mut Breaker<Memory>, now: u64) {
    vm.tick(now);
}

/// Both workers act at once, as the scheduler wants it.
fn together(host: &Memory, workers: &[Worker; 2], acts: [Act; 2], now: u64) {
    host.before_every_call(wait_for_turn_of_a_call);
    let begun = [0, 1].map(|at| {
        let worker = OnOneThread((Rc::clone(&workers[at]), acts[at]));
        shuttle::thread::spawn(move || {
            let (worker, act) = worker.get();
            act(&mut worker.borrow_mut(), now);
        })
    });
    begun.into_iter().for_each(|worker| worker.join().unwrap());
    host.before_every_call(|_, _| {});
}

fn probes(host: &Memory) -> [u64; 2] {
    ["success", "failure"].map(|how| host.value(&PROBES, A, how))
}

fn in_every_schedule(meeting: fn()) {
    let explored = schedules(|| {
        shuttle::Runner::new(Exhaustive::default(), config()).run(meeting);
    });
    assert!(explored > 20, "only {explored} schedules were seen");
}

#[test]
fn when_open_is_over_one_of_two_workers_probes() {
    in_every_schedule(|| {
        let (host, workers, now) = prepare();
        together(&host, &workers, [tick, tick], now);
        assert_eq!((host.sent().len(), host.value(&STATE, A, "")), (1, 1));
    });
}

#[test]
fn a_good_answer_counts_once_whatever_the_other_worker_does() {
    in_every_schedule(|| {
        let (host, workers, now) = prepare();
        tick(&mut workers[0].borrow_mut(), now);
        together(&host, &workers, [|vm, now| vm.probe_answered(1, Some(200), now), tick], now + SECOND);
        let sent = host.sent().len();
        assert!(sent == 1 || sent == 2, "the next one is due");
        assert_eq!((probes(&host), host.value(&STATE, A, "")), ([1, 0], 1));
        // Another good one makes two, and not three.
        let later = now + 2 * SECOND;
        workers.iter().for_each(|worker| tick(&mut worker.borrow_mut(), later));
        assert_eq!(host.sent().len(), 2);
        workers.iter().for_each(|worker| worker.borrow_mut().probe_answered(2, Some(200), later));
        let reasons: Vec<String> =
            host.log_lines().into_iter().filter(|line| line.contains("probes_succeeded")).collect();
        assert_eq!((probes(&host), reasons.len()), ([2, 0], 1));
    });
}

#[test]
fn a_bad_answer_reopens_once_and_nobody_probes_then() {
    in_every_schedule(|| {
        let (host, workers, now) = prepare();
        tick(&mut workers[0].borrow_mut(), now);
        together(&host, &workers, [|vm, now| vm.probe_answered(1, Some(503), now), tick], now + SECOND);
        workers.iter().for_each(|worker| tick(&mut worker.borrow_mut(), now + SECOND));
        let trips = host.log_lines().into_iter().filter(|line| line.contains("probe_failed")).count();
        assert_eq!((host.sent().len(), probes(&host), host.value(&STATE, A, ""), trips), (1, [0, 1], 2, 1));
    });
}

/// Its owner has been stopped for as long as the lease lasts, and finds it over.
#[test]
fn a_probe_whose_lease_is_over_decides_nothing_beside_the_next_one() {
    in_every_schedule(|| {
        let (host, workers, now) = prepare();
        tick(&mut workers[0].borrow_mut(), now);
        let over = now + 4 * SECOND;
        together(&host, &workers, [|vm, now| vm.probe_answered(1, None, now), tick], over);
        assert!(host.sent().len() <= 2);
        let trips = host.log_lines().into_iter().filter(|line| line.contains("probe_failed")).count();
        assert!(trips <= 1 && probes(&host) == [0, 1], "{trips} trips, {:?}", probes(&host));
    });
}

/// The other worker finds it out in the middle of this one's tick, before its `call`-th host call.
#[test]
fn two_workers_whose_host_sends_nothing_both_find_it_out() {
    for call in 0.. {
        let (host, workers, now) = prepare();
        host.sends(Sending::Refused);
        let (other, met) = (Rc::clone(&workers[1]), Rc::new(RefCell::new(false)));
        let meets = Rc::clone(&met);
        host.before_call(call, move || {
            tick(&mut other.borrow_mut(), now);
            *meets.borrow_mut() = true;
        });
        tick(&mut workers[0].borrow_mut(), now);
        if !met.take() {
            assert!(call > 20, "only {call} host calls");
            return;
        }
        workers.iter().for_each(|worker| tick(&mut worker.borrow_mut(), now));
        for (stream, worker) in (1..).zip(&workers) {
            let admitted = worker.borrow_mut().admit(stream, A, now);
            let Admission::Pass(permit) = admitted else { panic!("before call {call}: {admitted:?}") };
            worker.borrow_mut().settle(permit, Some(A), &Answer::well(), Some(1), now);
        }
        assert!(host.log_lines().iter().any(|line| line.contains("probes_succeeded")), "before call {call}");
    }
}
