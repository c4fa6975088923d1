//! The callbacks that Envoy calls, and the context that each is for.
//!
//! The SDK's dispatcher serves every kind of context: boxes behind trait objects in several maps, which it looks
//! through at each callback. This module has two kinds, a root and a stream, and five callbacks of a stream. So one
//! step tells them apart and finds them. The build gives these functions the ABI's names in place of the SDK's
//! (`filter/trim`). Logging, the panic hook, the allocator and the ABI's version are the SDK's own.

// The language calls an export under a plain name unsafe, since another function might have it too. The build settles
// that.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use crate::host::Abi;
use crate::root::{Configurations, Root};
use crate::stream::Stream;

/// Envoy counts contexts up, so their numbers are spread well enough without hashing.
#[derive(Default)]
struct ByNumber(u64);

impl Hasher for ByNumber {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The map looks at the upper bits first.
        self.0 = u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

struct Contexts {
    roots: Vec<Root<Abi>>,
    streams: HashMap<u32, Stream<Abi>, BuildHasherDefault<ByNumber>>,
    /// Lives as long as the VM: Envoy makes a new root context for each configuration.
    configurations: Rc<RefCell<Configurations<Abi>>>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::new(Contexts {
        roots: Vec::new(),
        streams: HashMap::default(),
        configurations: Rc::new(RefCell::new(Configurations::none())),
    });
}

/// `None` where Envoy calls us from within one of our own calls. It never does.
fn with<T>(act: impl FnOnce(&mut Contexts) -> T) -> Option<T> {
    CONTEXTS.with(|contexts| contexts.try_borrow_mut().ok().map(|mut contexts| act(&mut contexts)))
}

fn with_root<T>(id: u32, act: impl FnOnce(&mut Root<Abi>) -> T) -> Option<T> {
    with(|contexts| contexts.roots.iter_mut().find(|root| root.id() == id).map(act))?
}

fn with_stream<T>(id: u32, act: impl FnOnce(&mut Stream<Abi>) -> T) -> Option<T> {
    with(|contexts| contexts.streams.get_mut(&id).map(act))?
}

/// The ABI's `Action`.
const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

/// A root context (which has no parent), or a stream of one.
#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_context_create(id: u32, parent: u32) {
    with(|contexts| {
        if parent == 0 {
            let configurations = Rc::clone(&contexts.configurations);
            contexts.roots.push(Root::new(Abi::of(id), id, configurations));
        } else if let Some(root) = contexts.roots.iter().find(|root| root.id() == parent) {
            contexts.streams.insert(id, root.stream(id));
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_vm_start(_root: u32, _size: usize) -> bool {
    true
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_configure(root: u32, _size: usize) -> bool {
    // A configuration that could not be read must not pass for one in use.
    with_root(root, Root::configure).unwrap_or(false)
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_tick(root: u32) {
    with_root(root, |root| root.tick());
}

/// The answer to a request of the module's own. The root context that has sent it gets it, or nobody where that is gone.
#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_http_call_response(root: u32, call: u32, _headers: usize, _body: usize, _trailers: usize) {
    with_root(root, |root| root.probe_answered(call));
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_request_headers(id: u32, _headers: usize, end_of_stream: bool) -> u32 {
    if with_stream(id, |stream| stream.admit(end_of_stream)).unwrap_or(true) { CONTINUE } else { PAUSE }
}

/// Envoy calls this for each piece of a request's body. Only the last piece matters, so only that one costs a host
/// call.
#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_request_body(id: u32, size: usize, end_of_stream: bool) -> u32 {
    if with_stream(id, |stream| stream.request_body(size, end_of_stream)).unwrap_or(true) { CONTINUE } else { PAUSE }
}

/// A request that has trailers ends with them.
#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_request_trailers(id: u32, _trailers: usize) -> u32 {
    if with_stream(id, Stream::request_ended).unwrap_or(true) { CONTINUE } else { PAUSE }
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_response_headers(id: u32, _headers: usize, end_of_stream: bool) -> u32 {
    with_stream(id, |stream| stream.response_headers(end_of_stream));
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_response_trailers(id: u32, _trailers: usize) -> u32 {
    with_stream(id, Stream::response_trailers);
    CONTINUE
}

#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_log(id: u32) {
    with_stream(id, Stream::settle);
}

/// The context is gone. A stream that was never logged is settled here.
#[unsafe(no_mangle)]
extern "C" fn own_proxy_on_delete(id: u32) {
    with(|contexts| {
        if contexts.streams.remove(&id).is_none() {
            contexts.roots.retain(|root| root.id() != id);
        }
    });
}
