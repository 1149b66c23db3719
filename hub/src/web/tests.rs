//! The pages, over a real database and through the real routes.

mod dom;
mod exports;
mod fleet;
mod hostile;
mod lists;
