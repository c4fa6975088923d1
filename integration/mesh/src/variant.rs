//! Other modules, made from the breaker's module, for tests that no build can serve.

use anyhow::{Context, Result, bail};
use walrus::ir::BinaryOp;
use walrus::{ExportItem, FunctionBuilder, Module, ValType};

/// The trapping module traps at a request with more headers than this. No other request has as many, and the
/// upstreams of the tests accept so many.
pub const TRAPPING_HEADERS: i32 = 40;

/// The same module with another digest: Envoy makes new VMs for it, as for a new version.
#[must_use]
pub fn renewed(module: &[u8]) -> Vec<u8> {
    // A custom section (0) of 8 bytes: its name, of 7.
    [module, b"\x00\x08\x07renewed"].concat()
}

/// The module with a trap in it, as a bug would be: VM and stream end at a request with very many headers.
///
/// # Errors
/// It does not admit requests as the ABI says.
pub fn trapping(module: &[u8]) -> Result<Vec<u8>> {
    let mut module = Module::from_buffer(module)?;
    let export = module.exports.iter().find(|export| export.name == "proxy_on_request_headers");
    let (export, item) = export.map(|export| (export.id(), export.item)).context("no request is admitted")?;
    let ExportItem::Function(admit) = item else { bail!("proxy_on_request_headers is no function") };
    let parameters = [ValType::I32; 3];
    let mut function = FunctionBuilder::new(&mut module.types, &parameters, &[ValType::I32]);
    let [context, headers, end] = parameters.map(|kind| module.locals.add(kind));
    function
        .func_body()
        .local_get(headers)
        .i32_const(TRAPPING_HEADERS)
        .binop(BinaryOp::I32GtS)
        .if_else(
            None,
            |then| {
                then.unreachable();
            },
            |_| {},
        )
        .local_get(context)
        .local_get(headers)
        .local_get(end)
        .call(admit);
    let function = function.finish(vec![context, headers, end], &mut module.funcs);
    module.exports.get_mut(export).item = ExportItem::Function(function);
    Ok(module.emit_wasm())
}
