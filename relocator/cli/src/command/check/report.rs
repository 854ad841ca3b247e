//! The answer as values for JSON.

use elf_tools::Avma;
use elf_tools::image::Image;
use elf_tools::printable;
use relocator_criu::check::{Answer, CheckedTask, CheckedThread, Context};
use relocator_criu::plain::{Breakage, Inside, PlainRestore, function_at};
use relocator_process::apply::RunningKernel;
use relocator_process::apply::outcome::LinkedText;

use super::{Arguments, Found};
use crate::json::check::{self as json, Check, CriuAlone, Jump, Task, Text, Thread};
use crate::json::{CHECK, Function, Kernel};

pub(super) fn report(arguments: &Arguments, kernel: &RunningKernel, found: &Found) -> Check {
    let lost = found.processors.as_ref();
    let lost = lost.map(|processors| processors.features.without(arguments.cpu.0));
    Check {
        schema: CHECK,
        checked: arguments.checked.to_string(),
        yes: found.tasks.iter().all(|task| task.answer.is_yes()),
        onto: Kernel::new(kernel.source()),
        processor: arguments.cpu.0.names().collect(),
        lost_features: lost.map_or_else(Vec::new, |lost| lost.names().collect()),
        new_time_namespace: found.makes_time_namespace,
        tasks: found.tasks.iter().map(task).collect(),
        notes: found.notes.clone(),
    }
}

fn task(task: &CheckedTask) -> Task {
    let outcome = match &task.answer {
        Answer::Linked(outcome) => Some(outcome),
        _ => None,
    };
    let texts = outcome.into_iter().flat_map(|outcome| &outcome.texts);
    let misleading = outcome.map_or_else(Vec::new, |outcome| outcome.misleading_names.clone());
    let (code, reason) = match &task.answer {
        Answer::No(no) => (no.code(), Some(printable(&no.to_string()).into_owned())),
        yes => (yes.code(), None),
    };
    Task {
        pid: task.pid,
        parent: task.parent,
        name: printable(&task.name).into_owned(),
        yes: task.answer.is_yes(),
        code,
        reason,
        vdso: task.vdso.map(|at| at.0),
        build_id: task.build_id.as_ref().map(ToString::to_string),
        texts: texts.map(text).collect(),
        threads: task.threads.iter().map(thread).collect(),
        criu_alone: task.plain.as_ref().map(|plain| alone(task, plain)),
        misleading_names: misleading,
    }
}

fn text(text: &LinkedText) -> Text {
    Text {
        address: text.image.0,
        build_id: text.build_id.clone(),
        tables: text.tables.provenance.word(),
        no_tables: text.tables.no_tables.as_ref().map(ToString::to_string),
        functions: text.functions.iter().map(Function::from).collect(),
    }
}

fn thread(thread: &CheckedThread) -> Thread {
    Thread {
        thread: thread.id,
        name: thread
            .name
            .as_deref()
            .map(|name| printable(name).into_owned()),
        address: thread.pc.map(|pc| pc.0),
        contexts: thread.contexts.iter().map(context).collect(),
    }
}

fn context(context: &Context) -> json::Context {
    let function = context.function.as_ref();
    json::Context {
        frame: context.frame.map(|at| at.0),
        address: context.pc.0,
        place: context.place.0,
        function: function.map(|(name, _)| name.clone()),
        offset: function.map(|(_, behind)| *behind),
        fate: context.fate.code(),
    }
}

fn alone(task: &CheckedTask, plain: &PlainRestore) -> CriuAlone {
    let jumps = plain.jumps().iter().map(|jump| Jump {
        function: jump.function,
        entry: jump.entry.0,
        has_target: jump.has_target,
    });
    let breaks = task.broken.iter().map(|broken| {
        let inside = broken.inside();
        json::Breakage {
            code: broken.code(),
            message: words(broken, task.image.as_ref()),
            thread: inside.map(|inside| inside.thread),
            frame: inside.and_then(|inside| inside.frame).map(|at| at.0),
            function: match (broken.function(), inside) {
                (Some(function), _) => Some(function.to_owned()),
                (None, Some(inside)) => name(inside, task.image.as_ref()).map(|(name, _)| name),
                (None, None) => None,
            },
        }
    });
    CriuAlone {
        restore: match plain {
            PlainRestore::InPlace => "in-place",
            PlainRestore::Jumps(_) => "jumps",
        },
        jumps: jumps.collect(),
        breaks: breaks.collect(),
    }
}

/// What breaks, in words.
fn words(broken: &Breakage, image: Option<&Image>) -> String {
    let subject = |inside: &Inside| {
        let place = match name(inside, image) {
            Some((name, behind)) => format!("{name}+{behind:#x}"),
            None => shared(inside.place.0),
        };
        match inside.frame {
            Some(frame) => format!(
                "thread {}, interrupted in {place} (signal frame at {frame}),",
                inside.thread
            ),
            None => format!("thread {} in {place}", inside.thread),
        }
    };
    match broken {
        Breakage::InJump(inside) => format!(
            "{} is within the jump that CRIU writes there, and crashes",
            subject(inside)
        ),
        Breakage::ReadsZeros(inside) => format!(
            "{} goes on with zeros in place of the old kernel's data",
            subject(inside)
        ),
        Breakage::OtherCode(inside) => {
            format!("{} goes on in the code of another vDSO", subject(inside))
        }
        Breakage::OtherNamespace(inside) => format!(
            "{} goes on in a new time namespace, and may return one wrong time",
            subject(inside)
        ),
        Breakage::NotProxied { function } => match function.as_str() {
            "__vdso_clock_getres" => format!(
                "{function} is not on CRIU's list: it returns a resolution of 0 ns from then on"
            ),
            "__vdso_getrandom" => {
                format!("{function} is not on CRIU's list: it makes a system call from then on")
            }
            _ => format!("{function} is not on CRIU's list: it reads zeros from then on"),
        },
        Breakage::NoTarget { function } => format!(
            "the jump of {function} leads to just before the new vDSO, which has no such function"
        ),
        Breakage::Elsewhere { function } => format!(
            "{function} is elsewhere in the vDSO that CRIU puts in place, and callers have its old address"
        ),
        _ => broken.code().to_owned(),
    }
}

fn name(inside: &Inside, image: Option<&Image>) -> Option<(String, u64)> {
    let (name, behind) = function_at(image?, inside.place)?;
    Some((name.to_owned(), behind))
}

/// A place in code that several functions share, for a person.
pub(super) fn shared(place: u64) -> String {
    format!("code that functions share, at {place:#x}")
}

/// An address for a person.
pub(super) fn shown(address: u64) -> String {
    Avma(address).to_string()
}
