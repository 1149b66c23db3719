//! The pages. The same for the Hub and for one machine's dashboard: what differs is behind [`Gate`],
//! [`Records`] and [`Fleet`].

mod frame;
mod gate;
pub(crate) mod people;

use std::sync::Arc;

pub(crate) use frame::{Frame, Tab};
pub(crate) use gate::{Gate, Viewing};

use crate::events::Records;
use crate::fleet::Fleet;

/// What pages are made from.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) fleet: Arc<dyn Fleet>,
}
