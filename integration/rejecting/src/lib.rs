//! A filter that rejects every request as the breaker does, and does nothing else: one callback, one host call. `make
//! bench` counts it: no rejection by a module can cost less.

// The language calls exports under plain names and a host call unsafe.
#![allow(unsafe_code, missing_docs)]

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

/// This export tells the ABI's version.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Envoy takes no module without this export. It is never called here.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(_size: usize) -> *mut u8 {
    std::ptr::null_mut()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> bool {
    true
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(_root: u32, _size: usize) -> bool {
    true
}

const DETAILS: &str = "circuit_breaker_open{open}";
const BODY: &str = "upstream circuit is open\n";

/// The breaker's two headers in the ABI's form: their number, the sizes of names and values, then each ended by a
/// zero byte.
const HEADERS: &[u8] =
    b"\x02\0\0\0\x11\0\0\0\x04\0\0\0\x0b\0\0\0\x02\0\0\0x-circuit-breaker\0open\0retry-after\x0030\0";

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(_id: u32, _headers: usize, _end_of_stream: bool) -> u32 {
    unsafe {
        proxy_send_local_response(
            503,
            DETAILS.as_ptr(),
            DETAILS.len(),
            BODY.as_ptr(),
            BODY.len(),
            HEADERS.as_ptr(),
            HEADERS.len(),
            14,
        );
    }
    // The ABI's `Pause`: the request is already answered.
    1
}
