//! What the streams of one configuration share, and what they ask of it.

use std::cell::RefCell;
use std::rc::Rc;

use circuit_breaker_core::breaker::Breaker;
use circuit_breaker_core::envoy::Details;

use crate::envoy::Envoy;
use crate::glance::{Glance, Seen};
use crate::heads::Heads;

/// What the streams of one configuration share.
pub(crate) struct Shared<E: Envoy> {
    pub(crate) envoy: E,
    pub(crate) breaker: Rc<RefCell<Breaker<E>>>,
    /// `None` where the host has no expressions.
    pub(crate) glance: RefCell<Option<Glance<E>>>,
    pub(crate) heads: Heads,
}

impl<E: Envoy> Shared<E> {
    /// The status of the head that comes by, if it is to be looked at and is the upstream's own.
    pub(crate) fn own_status(&self) -> Option<u32> {
        if !self.heads.is_due() {
            return None;
        }
        let told = self.glance.try_borrow().ok().and_then(|glance| glance.as_ref()?.head());
        let head = told.unwrap_or_else(|| Seen::read(&self.envoy));
        (head.details == Details::ViaUpstream).then_some(head.status)
    }

    /// How the present request ended, and where.
    pub(crate) fn ended(&self) -> Seen {
        let told = self.glance.try_borrow_mut().ok().and_then(|mut glance| glance.as_mut()?.look());
        told.unwrap_or_else(|| Seen::read(&self.envoy))
    }
}
