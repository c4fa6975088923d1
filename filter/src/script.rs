//! An Envoy for tests. A script sets what it says of a request, and it remembers what it is asked to do. Its metrics
//! and shared data are those of the core's proxy in memory. It evaluates expressions for real, as far as the module's
//! own need that.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use circuit_breaker_core::host::{Host, HostError, Level, MetricKind, Progress};
use circuit_breaker_core::policy::active::ActiveProbe;
use circuit_breaker_core::policy::classify::Answer;
use circuit_breaker_core::testing::Memory;

use crate::envoy::{Envoy, Evaluated, Headers, LocalReply, Token};

/// A value of a property or an expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Flag(bool),
    Number(i64),
    Text(String),
}

#[derive(Default)]
struct State {
    now: u64,
    has_expressions: bool,
    properties: BTreeMap<String, Value>,
    headers: BTreeMap<(Headers, String), String>,
    replies: Vec<(u32, BTreeMap<String, String>)>,
    document: String,
    routed_again: usize,
    period: u64,
}

/// The scripted Envoy.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) memory: Memory,
    state: Rc<RefCell<State>>,
}

impl Script {
    /// With expressions; or without, like an Envoy that was built without them.
    pub(crate) fn new(has_expressions: bool, document: &str) -> Script {
        let state = State {
            now: 1_790_000_000_000_000_000,
            has_expressions,
            document: document.to_owned(),
            ..State::default()
        };
        Script { memory: Memory::default(), state: Rc::new(RefCell::new(state)) }
    }

    /// The same Envoy under another configuration.
    pub(crate) fn with(&self, document: &str) -> Script {
        Script { memory: self.memory.clone(), ..Script::new(true, document) }
    }

    /// A request begins. Only this is known of it.
    pub(crate) fn request(&self, upstream: &str, headers: &[(&str, &str)]) {
        let mut state = self.state.borrow_mut();
        state.properties.clear();
        state.headers.clear();
        state.properties.insert("xds.cluster_name".to_owned(), Value::Text(upstream.to_owned()));
        state.properties.insert("upstream.request_attempt_count".to_owned(), Value::Number(1));
        for (name, value) in headers {
            state.headers.insert((Headers::Request, (*name).to_owned()), (*value).to_owned());
        }
    }

    pub(crate) fn says(&self, property: &str, value: Value) {
        self.state.borrow_mut().properties.insert(property.to_owned(), value);
    }

    /// Code, flags and details, as Envoy says them.
    pub(crate) fn answers(&self, code: i64, flags: i64, details: &str) {
        self.says("response.code", Value::Number(code));
        self.says("response.flags", Value::Number(flags));
        self.says("response.code_details", Value::Text(details.to_owned()));
    }

    pub(crate) fn sends(&self, map: Headers, name: &str, value: &str) {
        self.state.borrow_mut().headers.insert((map, name.to_owned()), value.to_owned());
    }

    pub(crate) fn pass(&self, nanoseconds: u64) {
        let mut state = self.state.borrow_mut();
        state.now = state.now.saturating_add(nanoseconds);
    }

    /// How often the request's route was to be looked for again.
    pub(crate) fn routed_again(&self) -> usize {
        self.state.borrow().routed_again
    }

    /// Nanoseconds between two ticks.
    pub(crate) fn period(&self) -> u64 {
        self.state.borrow().period
    }

    /// Replies in an upstream's place so far.
    pub(crate) fn replies(&self) -> Vec<(u32, BTreeMap<String, String>)> {
        self.state.borrow().replies.clone()
    }
}

impl Envoy for Script {
    fn now(&self) -> u64 {
        self.state.borrow().now
    }

    fn property(&self, path: &str) -> Option<Vec<u8>> {
        match self.state.borrow().properties.get(&path.replace('\0', "."))? {
            Value::Number(number) => Some(number.to_le_bytes().to_vec()),
            Value::Text(text) if !text.is_empty() => Some(text.clone().into_bytes()),
            _ => None,
        }
    }

    fn header(&self, map: Headers, name: &str) -> Option<Vec<u8>> {
        self.state.borrow().headers.get(&(map, name.to_owned())).map(|value| value.clone().into_bytes())
    }

    fn set_request_header(&self, name: &str, value: &str) -> Result<(), HostError> {
        self.sends(Headers::Request, name, value);
        Ok(())
    }

    fn clear_route_cache(&self) -> Result<(), HostError> {
        let mut state = self.state.borrow_mut();
        state.routed_again = state.routed_again.saturating_add(1);
        Ok(())
    }

    fn create(&self, expression: &str) -> Option<Token> {
        self.state.borrow().has_expressions.then(|| Token(expression.as_bytes().to_vec()))
    }

    fn evaluate(&self, expression: &Token) -> Option<Evaluated> {
        let text = String::from_utf8(expression.0.clone()).ok()?;
        let state = self.state.borrow();
        let mut parser = Parser { rest: &text, properties: &state.properties };
        match parser.choice()? {
            Value::Text(text) => Some(Evaluated::Text(text)),
            Value::Null => Some(Evaluated::Null),
            other => panic!("Envoy would write {other:?} down in another way"),
        }
    }

    fn delete(&self, _expression: &Token) {}

    fn reply(&self, reply: &LocalReply<'_>) -> Result<(), HostError> {
        let headers = reply.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.state.borrow_mut().replies.push((reply.status, headers.collect()));
        Ok(())
    }

    fn tick_every(&self, period: u64) {
        self.state.borrow_mut().period = period;
    }

    fn belong_to(&mut self, _plugin: &str) {}

    fn plugin_configuration(&self) -> Vec<u8> {
        self.state.borrow().document.clone().into_bytes()
    }
}

/// Evaluates while it parses. An error, for example a property that is absent, is `None`. A branch that is not taken
/// is skipped.
struct Parser<'a> {
    rest: &'a str,
    properties: &'a BTreeMap<String, Value>,
}

impl Parser<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// `a ? b : c`, where only the branch that is taken must have a value.
    fn choice(&mut self) -> Option<Value> {
        let condition = self.both();
        if !self.eat("?") {
            return condition;
        }
        let first = self.choice();
        assert!(self.eat(":"), "{}", self.rest);
        let second = self.choice();
        match condition? {
            Value::Flag(true) => first,
            Value::Flag(false) => second,
            other => panic!("no condition: {other:?}"),
        }
    }

    fn both(&mut self) -> Option<Value> {
        let mut value = self.comparison();
        while self.eat("&&") {
            let other = self.comparison();
            // As in CEL: false decides, whatever the other side is.
            value = match (value, other) {
                (Some(Value::Flag(false)), _) | (_, Some(Value::Flag(false))) => Some(Value::Flag(false)),
                (one, other) => one.and(other),
            };
        }
        value
    }

    fn comparison(&mut self) -> Option<Value> {
        let left = self.sum();
        if self.eat("==") {
            let right = self.sum();
            return Some(Value::Flag(left? == right?));
        }
        if self.eat("<") {
            let right = self.sum();
            return match (left?, right?) {
                (Value::Number(left), Value::Number(right)) => Some(Value::Flag(left < right)),
                other => panic!("cannot compare {other:?}"),
            };
        }
        left
    }

    fn sum(&mut self) -> Option<Value> {
        let mut value = self.single();
        while self.eat("+") {
            let other = self.single();
            value = match (value?, other?) {
                (Value::Text(one), Value::Text(other)) => Some(Value::Text(one + &other)),
                other => panic!("cannot add {other:?}"),
            };
        }
        value
    }

    fn single(&mut self) -> Option<Value> {
        if self.eat("(") {
            let value = self.choice();
            assert!(self.eat(")"), "{}", self.rest);
            return value;
        }
        if self.eat("string(") {
            let value = self.choice();
            assert!(self.eat(")"), "{}", self.rest);
            return match value? {
                Value::Number(number) => Some(Value::Text(number.to_string())),
                other => panic!("no number: {other:?}"),
            };
        }
        if self.eat("\"") {
            let (text, rest) = self.rest.split_once('"').expect("a text ends");
            self.rest = rest;
            return Some(Value::Text(text.replace("\\n", "\n")));
        }
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || "._".contains(c))).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match (word, word.parse()) {
            ("null", _) => Some(Value::Null),
            (_, Ok(number)) => Some(Value::Number(number)),
            _ => self.properties.get(word).cloned(),
        }
    }
}

impl Host for Script {
    fn module(&self) -> &str {
        self.memory.module()
    }

    fn get(&self, key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
        self.memory.get(key)
    }

    fn swap(&self, key: &str, value: &[u8], expected: u32) -> Result<bool, HostError> {
        self.memory.swap(key, value, expected)
    }

    fn define(&self, kind: MetricKind, name: &str) -> Result<u32, HostError> {
        self.memory.define(kind, name)
    }

    fn add(&self, metric: u32, delta: i64) -> Result<(), HostError> {
        self.memory.add(metric, delta)
    }

    fn record(&self, metric: u32, value: u64) -> Result<(), HostError> {
        self.memory.record(metric, value)
    }

    fn read(&self, metric: u32) -> Result<u64, HostError> {
        self.memory.read(metric)
    }

    fn progress_of(&self, _stream: u32) -> Option<Progress> {
        let upstream = self.text(crate::envoy::CLUSTER)?;
        Some(Progress { upstream, sent: self.is_sent(), delayed: false })
    }

    fn answer_of(&self, _stream: u32) -> Option<(String, Answer)> {
        None
    }

    fn send(&self, upstream: &str, probe: &ActiveProbe) -> Result<Option<u32>, HostError> {
        self.memory.send(upstream, probe)
    }

    fn log(&self, level: Level, line: &str) {
        self.memory.log(level, line);
    }
}
