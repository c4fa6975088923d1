//! The breaker on a real mesh: one lab, started before the first test and taken down after the last.
//!
//! Rust's own test harness has no place for a start or an end of this kind. So this program runs the tests, one after
//! the other.

mod edge;
mod fallback;
mod faults;
mod gateway;
mod live;
mod observability;
mod overlays;
mod queries;
mod sample;
mod scrape;
mod sidecar;
mod status;
mod tight_pool;
mod traces;
mod upstreams;
mod versions;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use circuit_breaker_mesh::control_plane::Istio;
use circuit_breaker_mesh::namespaces::{self, Rights};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;
use world::World;

type Running<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// What a test needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    /// The gateway, which runs without root too.
    Gateway,
    /// Sidecars: root.
    Sidecar,
}

/// Which versions of Istio a test runs on.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// All.
    All,
    /// The newest only: 1.29 has no such thing.
    Newest,
}

struct Test {
    name: &'static str,
    needs: Needs,
    on: On,
    run: for<'a> fn(&'a World) -> Running<'a>,
}

macro_rules! tests {
    ($($module:ident::$name:ident, $needs:ident, $on:ident;)*) => {
        [$(Test {
            name: stringify!($name), needs: Needs::$needs, on: On::$on, run: |world| Box::pin($module::$name(world)),
        }),*]
    };
}

fn main() -> ExitCode {
    let tests = tests!(
        gateway::a_failing_upstream_trips_at_the_gateway_is_answered_there_and_recovers, Gateway, All;
        gateway::a_hung_upstream_trips_before_its_retries_end_in_504, Gateway, All;
        gateway::a_route_timeout_of_504_counts_as_a_failure_and_trips, Gateway, All;
        sidecar::a_client_with_the_plugin_trips_and_another_pod_is_untouched, Sidecar, All;
        sidecar::inbound_traffic_is_untouched, Sidecar, All;
        sidecar::calls_stay_under_mutual_tls, Sidecar, All;
        sidecar::the_breakers_own_probes_go_under_mutual_tls_and_without_users, Sidecar, All;
        live::an_edited_policy_takes_effect_and_an_open_circuit_stays_open, Gateway, All;
        live::a_bad_policy_is_refused_by_name_and_the_old_one_keeps_serving, Gateway, All;
        live::a_new_image_under_load_fails_no_request_and_keeps_an_open_circuit, Gateway, All;
        versions::two_versions_side_by_side_under_load_are_one_breaker, Gateway, All;
        faults::without_istiod_the_breaker_goes_on, Gateway, All;
        faults::an_image_that_is_not_there_takes_the_breaker_away_and_traffic_passes, Gateway, All;
        faults::with_the_registry_down_a_new_proxy_lets_traffic_pass, Gateway, All;
        faults::with_the_registry_down_fail_reload_and_fail_close_answer_403_to_everyone, Gateway, All;
        faults::a_vm_that_traps_lets_traffic_pass, Gateway, All;
        faults::a_vm_that_traps_is_made_anew_under_fail_reload_and_circuits_stay_open, Gateway, All;
        faults::an_agent_that_restarts_begins_closed_and_protects_again, Gateway, All;
        faults::an_upstream_that_comes_back_under_another_address_closes_its_circuit, Gateway, All;
        observability::metrics_carry_their_labels_on_the_proxys_and_the_agents_port, Gateway, All;
        observability::the_access_log_says_who_answered, Gateway, All;
        status::status_tells_who_has_given_up_and_who_runs_without_the_breaker, Gateway, All;
        scrape::prometheus_sees_an_ejection_a_full_pool_and_a_trip_as_the_dashboards_ask_for_them, Gateway, All;
        upstreams::subsets_of_a_weighted_route_have_a_circuit_each, Gateway, All;
        upstreams::ports_of_one_service_have_a_circuit_each, Gateway, All;
        upstreams::an_external_host_has_a_circuit_under_its_own_name, Gateway, All;
        fallback::an_open_circuit_sends_requests_to_another_service_and_back, Gateway, All;
        overlays::observe_rejects_nothing_and_tells_what_it_would_have_rejected, Gateway, All;
        overlays::the_mesh_wide_overlay_is_everywhere_but_where_a_namespace_opts_out, Gateway, All;
        overlays::a_traffic_extension_does_what_the_wasm_plugin_does, Gateway, Newest;
        // The last tests: from here on the policies of the sample apply to the pods of all tests.
        edge::users_of_the_sample_come_in_over_tls_and_those_without_it_are_sent_there, Sidecar, All;
        edge::the_samples_health_path_says_how_it_is_with_one_try_whatever_the_circuit_says, Sidecar, All;
        tight_pool::a_pool_of_one_serves_the_samples_users_one_by_one_and_refuses_bursts, Sidecar, All;
        sample::the_sample_mesh_serves_its_users_while_one_version_is_sick, Sidecar, All;
        traces::spans_tell_which_request_was_rejected_and_which_fell_back, Sidecar, All;
        traces::the_samples_access_log_tells_the_same, Sidecar, All;
        queries::the_documents_queries_find_real_lines_and_name_real_fields, Sidecar, All;
    );
    let mut arguments = Arguments::from_args();
    // The tests share one lab, and some take a part of it away for a while.
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = tests.map(|test| Trial::test(test.name, || Ok(())));
        return libtest_mimic::run(&arguments, trials.into()).exit_code();
    }
    let must = std::env::var("CI").is_ok_and(|value| value == "true");
    let rights = match namespaces::enter() {
        Ok(Rights::OneUser) if must => return complain("CI runs all tests, and those with sidecars need root"),
        Ok(rights) => rights,
        Err(why) if must => return complain(&format!("{why:#}")),
        Err(why) => {
            eprintln!("skipped, all of it: {why:#}");
            return ExitCode::SUCCESS;
        }
    };
    let runtime = Arc::new(Runtime::new().expect("threads can be had"));
    let istio = Istio::chosen().unwrap_or_else(|why| panic!("{why:#}"));
    let world = runtime.block_on(World::start(rights, istio)).unwrap_or_else(|why| panic!("{why:#}"));
    let world = Arc::new(world);
    if rights == Rights::OneUser {
        eprintln!("tests with sidecars are ignored: they need root, and you are not");
    }
    let trials = tests.map(|test| {
        let (world, runtime) = (Arc::clone(&world), Arc::clone(&runtime));
        let ignored = (rights == Rights::OneUser && test.needs == Needs::Sidecar)
            || (istio != Istio::Newest && test.on == On::Newest);
        Trial::test(test.name, move || run(&runtime, &world, &test)).with_ignored_flag(ignored)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.into());
    // Upstreams and pods end inside the runtime that they live in.
    let _inside = runtime.enter();
    drop(world);
    conclusion.exit_code()
}

fn run(runtime: &Runtime, world: &World, test: &Test) -> Result<(), libtest_mimic::Failed> {
    let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on((test.run)(world))));
    if done.is_err() {
        runtime.block_on(world.lab.print_what_is_known());
        runtime.block_on(world.mend()).map_err(|why| format!("{why:#}"))?;
        return Err("its panic is above, with what the lab knows".into());
    }
    Ok(())
}

fn complain(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
