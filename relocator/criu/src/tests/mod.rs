//! Images that are as they should be, and others.

mod bad;
mod checked;
mod memory;

use crate::directory::Held;
use crate::images::Images;
use crate::task::Task;
use crate::{Error, Result};

/// The only task of images.
fn task(held: &Held) -> Result<Task> {
    let images = Images::held(held.clone())?;
    let mut tasks = images.tasks();
    tasks.next().expect("there is one")
}

/// What is wrong with images.
fn error(held: &Held) -> Error {
    task(held).expect_err("they are wrong")
}
