//! `circuit-breaker status`, as people run it: over files, over a thousand proxies, over a Prometheus.
// Tests say what they expect by panicking.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, missing_docs)]

mod server;

use std::fs;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use server::Server;

const PAYMENTS: &str = "outbound|8443|v2|payments.pay.svc.cluster.local";
const CART: &str = "outbound|80||cart.shop.svc.cluster.local";

fn status(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_circuit-breaker")).arg("status").args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {output:?}"))
}

/// A proxy's page: payments in this state, cart well.
fn page(state: u8, rejected: u64) -> String {
    let until = if state == 2 { SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60 } else { 0 };
    let ours = "wasm_filter=\"circuit_breaker\"";
    format!(
        "envoy_server_live{{}} 1\n\
         circuit_breaker_circuits{{{ours}}} 2\n\
         circuit_breaker_info{{component=\"0a1b2c3d\",tag=\"0.1.0-89abcdef\",{ours}}} 1\n\
         circuit_breaker_state{{tag=\"{PAYMENTS}\",{ours}}} {state}\n\
         circuit_breaker_open_until_seconds{{tag=\"{PAYMENTS}\",{ours}}} {until}\n\
         circuit_breaker_trips_total{{component=\"consecutive\",tag=\"{PAYMENTS}\",{ours}}} 3\n\
         circuit_breaker_rejected_total{{component=\"open\",tag=\"{PAYMENTS}\",{ours}}} {rejected}\n\
         circuit_breaker_state{{tag=\"{CART}\",{ours}}} 0\n"
    )
}

/// A file of the test, gone with it.
struct File(std::path::PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("circuit-breaker-status-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn files_show_the_worst_state_and_who_agrees() {
    let (sick, half, bare) =
        (File::new("sick", &page(2, 9)), File::new("half", &page(1, 0)), File::new("bare", "envoy_server_live{} 1\n"));
    let missing = "/nonexistent/page";
    let pages = ["--stats", sick.path(), "--stats", half.path(), "--stats", bare.path(), "--stats", missing];
    let answer = status(&[&pages[..], &["-o", "json"]].concat());
    assert_eq!(answer.status.code(), Some(0));
    let document = document(&answer);
    let first = &document["upstreams"][0];
    assert_eq!(
        (&first["upstream"], &first["state"], &first["subset"]),
        (&json!(PAYMENTS), &json!("OPEN"), &json!("v2"))
    );
    assert_eq!(first["proxies"], json!({"open": 1, "half_open": 1, "closed": 0}));
    assert!(first["reopens_in_seconds"].as_u64().is_some_and(|seconds| (1..=60).contains(&seconds)), "{first}");
    assert_eq!((&first["reasons"], &first["rejected_per_second"]), (&json!({"consecutive": 6}), &Value::Null));
    assert_eq!((&first["policies"], &first["modules"]), (&json!(["0a1b2c3d"]), &json!(["0.1.0-89abcdef"])));
    assert_eq!(document["unprotected_proxies"], json!([bare.path()]));
    assert_eq!(document["unreachable_proxies"], json!([missing]));
    let table = out(&status(&pages));
    assert!(table.starts_with("1 OPEN   0 HALF_OPEN   1 CLOSED   in 3 proxies\n"), "{table}");
    assert!(table.contains("● payments.pay:8443 v2  OPEN    1 of 2") && !table.contains("cart.shop"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours where there is no terminal");
    let yaml = out(&status(&[&pages[..], &["-o", "yaml"]].concat()));
    assert!(yaml.contains("state: OPEN"), "{yaml}");
}

#[test]
fn filters_and_exit_codes_serve_scripts() {
    let (sick, half) = (File::new("open", &page(2, 0)), File::new("half-open", &page(1, 0)));
    let code = |arguments: &[&str]| status(arguments).status.code().unwrap();
    assert_eq!(code(&["--stats", sick.path(), "--fail-on", "open"]), 1);
    assert_eq!(code(&["--stats", half.path(), "--fail-on", "open"]), 0);
    assert_eq!(code(&["--stats", half.path(), "--fail-on", "half-open"]), 1);
    assert_eq!(code(&["--stats", sick.path(), "--fail-on", "open", "--namespace", "shop"]), 0);
    assert_eq!(code(&["--stats", "/nonexistent/page"]), 2);
    assert_eq!(code(&["--kubeconfig", "/nonexistent/config"]), 2);
    assert_eq!(code(&["--no-such-option"]), 2);
    for (filter, upstream) in
        [(["--namespace", "shop"], CART), (["--host", "payments"], PAYMENTS), (["--state", "closed"], CART)]
    {
        let document = document(&status(&[&["--stats", sick.path(), "-o", "json"][..], &filter].concat()));
        assert_eq!(document["upstreams"].as_array().unwrap().len(), 1, "{filter:?}");
        assert_eq!(document["upstreams"][0]["upstream"], upstream, "{filter:?}");
    }
}

/// Every fifth proxy has no module, one never answers, one refuses, and the rest rejects ten requests a look.
#[test]
fn a_thousand_proxies_are_asked_within_five_seconds() {
    let server = Server::start(|path, times| match path.trim_start_matches("/proxy-").parse::<u64>().unwrap() {
        0 => server::Answer::Never,
        1 => server::Answer::Status(503),
        number if number % 5 == 2 => server::Answer::Page("envoy_server_live{} 1\n".to_owned()),
        _ => server::Answer::Page(page(2, 10 * times)),
    });
    let places: Vec<_> = (0..1000).map(|number| format!("{}/proxy-{number}", server.url())).collect();
    let pages: Vec<_> = places.iter().flat_map(|place| ["--stats", place]).collect();
    let started = Instant::now();
    let answer = status(&[&pages[..], &["--timeout", "1", "-o", "json"]].concat());
    let took = started.elapsed();
    let document = document(&answer);
    let first = &document["upstreams"][0];
    assert_eq!(first["proxies"], json!({"open": 798, "half_open": 0, "closed": 0}));
    assert_eq!(document["unprotected_proxies"].as_array().unwrap().len(), 200);
    assert_eq!(document["unreachable_proxies"], json!([places[0], places[1]]));
    let rate = first["rejected_per_second"].as_f64().unwrap();
    assert!((1000.0..7980.0).contains(&rate), "7,980 in the time between two looks, which is a second or more: {rate}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn prometheus_counts_the_proxies_itself() {
    let vector =
        |series: Value| server::Answer::Page(json!({"status": "success", "data": {"result": series}}).to_string());
    let server = Server::start(move |path, _| {
        let query = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let asked = |part: &str| query.contains(part);
        let tag = |more: &[(&str, &str)], value: &str| {
            let mut labels = json!({"tag": PAYMENTS});
            more.iter().for_each(|(name, text)| labels[*name] = json!(text));
            json!({"metric": labels, "value": [1, value]})
        };
        vector(match () {
            () if asked("state\",") => json!([tag(&[("state", "2")], "12"), tag(&[("state", "0")], "3")]),
            () if asked("open_until") => json!([tag(&[], "4000000000")]),
            () if asked("mode\",") => json!([tag(&[("mode", "1")], "15")]),
            () if asked("trips_total") => json!([tag(&[("component", "latency")], "7")]),
            () if asked("rate(circuit_breaker_rejected") => json!([tag(&[], "2.5")]),
            () if asked("query=count((max") => json!([{"metric": {}, "value": [1, "15"]}]),
            () if asked("unless on (namespace") => {
                json!([{"metric": {"namespace": "shop", "pod": "web-1"}, "value": [1, "1"]}])
            }
            () => json!([]),
        })
    });
    let document = document(&status(&["--prometheus", &server.url(), "-o", "json"]));
    let first = &document["upstreams"][0];
    assert_eq!((&first["state"], &first["mode"]), (&json!("OPEN"), &json!("observe")));
    assert_eq!(first["proxies"], json!({"open": 12, "half_open": 0, "closed": 3}));
    assert_eq!((&first["reasons"], &first["rejected_per_second"]), (&json!({"latency": 7}), &json!(2.5)));
    assert_eq!((&document["proxies"], &document["unprotected_proxies"]), (&json!(15), &json!(["shop/web-1"])));
    let gone = status(&["--prometheus", "http://127.0.0.1:1"]);
    assert_eq!(gone.status.code(), Some(2));
}

#[test]
fn under_another_name_it_is_a_plugin_of_kubectl() {
    let directory = std::env::temp_dir().join(format!("circuit-breaker-plugin-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let link = directory.join("kubectl-circuit_breaker");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_circuit-breaker"), &link).unwrap();
    let help = out(&Command::new(link).args(["status", "--help"]).output().unwrap());
    fs::remove_dir_all(directory).unwrap();
    assert!(help.contains("Usage: kubectl circuit-breaker status"), "{help}");
}
