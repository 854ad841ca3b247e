//! `relocator verify OLD`.
#[derive(clap::Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Arguments) -> anyhow::Result<crate::Outcome> { anyhow::bail!("to come") }
