//! The answer for a person: one screen for a few tasks.

use std::fmt::Write;

use relocator::plan::Strategy;

use super::report::{shared, shown};
use crate::json::check::{Breakage, Check, Context, CriuAlone, Task, Text};

pub(super) fn text(check: &Check) -> String {
    let mut text = String::new();
    let kernel = &check.onto;
    let (answer, can) = match check.yes {
        true => ("yes", "can"),
        false => ("no", "cannot"),
    };
    let tasks = match check.tasks.len() {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    };
    let _ = writeln!(
        text,
        "{answer}: {} ({tasks}) {can} be restored on {kernel} and linked",
        check.checked
    );
    if !check.lost_features.is_empty() {
        let features = check.lost_features.join(", ");
        let _ = writeln!(
            text,
            "note: the processor lacks {features}, which that of the dump had"
        );
    }
    for note in &check.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for (index, task) in check.tasks.iter().enumerate() {
        describe(&mut text, task, &check.tasks[..index]);
    }
    text
}

/// Describes a task. What is the same as in one of those before is said once.
fn describe(text: &mut String, task: &Task, before: &[Task]) {
    let threads = match task.threads.len() {
        1 => "1 thread".to_owned(),
        count => format!("{count} threads"),
    };
    let _ = writeln!(
        text,
        "\ntask {} ({}), {threads}: {}",
        task.pid,
        task.name,
        state(task)
    );
    if let (Some(at), Some(build_id), true) = (task.vdso, &task.build_id, task.texts.is_empty()) {
        let _ = writeln!(text, "  vDSO at {}, build-id {build_id}", shown(at));
    }
    let mut before = before.iter();
    let same = before.find(|other| !task.texts.is_empty() && is_alike(&task.texts, &other.texts));
    match same {
        Some(other) => {
            for old in &task.texts {
                let _ = writeln!(
                    text,
                    "  old vDSO at {}, with functions as in task {}",
                    shown(old.address),
                    other.pid
                );
            }
        }
        None => task.texts.iter().for_each(|old| functions(text, old)),
    }
    let inside = task
        .threads
        .iter()
        .filter(|thread| !thread.contexts.is_empty());
    let (mut shown_threads, mut more) = (0, 0);
    for thread in inside {
        for context in &thread.contexts {
            match shown_threads < MOST {
                true => inside_of(text, thread.thread, context, task.code == "linked"),
                false => more += 1,
            }
            shown_threads += 1;
        }
    }
    if more > 0 {
        let _ = writeln!(text, "  and {more} more inside");
    }
    if let Some(alone) = &task.criu_alone {
        criu_alone(text, alone, same);
    }
    for misleading in &task.misleading_names {
        let _ = writeln!(text, "  note: {misleading}");
    }
}

/// Whether the same becomes of the functions of old vDSOs.
fn is_alike(texts: &[Text], others: &[Text]) -> bool {
    let mut pairs = texts.iter().zip(others);
    texts.len() == others.len()
        && pairs
            .all(|(one, other)| one.build_id == other.build_id && one.functions == other.functions)
}

/// Most threads of a task, and most things that break, that are shown.
const MOST: usize = 6;

fn state(task: &Task) -> String {
    match (&task.reason, task.code) {
        (Some(reason), _) => format!("no: {reason}"),
        (None, "linked") => "yes, it would be linked".to_owned(),
        (None, "same-vdso") => "yes, its vDSO is that of the kernel; nothing to do".to_owned(),
        (None, "taken-for-equal") => {
            "yes, CRIU puts the kernel's vDSO in place, which no thread and no caller notices"
                .to_owned()
        }
        (None, "ended") => "yes, it had ended".to_owned(),
        (None, _) => "yes, it has no old vDSO; nothing to do".to_owned(),
    }
}

fn functions(text: &mut String, old: &Text) {
    let (at, build_id) = (shown(old.address), &old.build_id);
    let _ = writeln!(
        text,
        "  old vDSO at {at}, build-id {build_id}, tables: {}",
        old.tables
    );
    if let Some(reason) = &old.no_tables {
        let _ = writeln!(text, "  no relocations: {reason}");
    }
    for strategy in Strategy::ALL {
        let functions = old.functions.iter();
        let of_it = functions.filter(|function| function.strategy == strategy.name());
        let names: Vec<&str> = of_it.map(|function| function.name.as_str()).collect();
        if !names.is_empty() {
            let _ = writeln!(text, "  {:8}  {}", strategy.name(), names.join(", "));
        }
    }
    let is_worse = |strategy: &str| strategy == "proxy" || strategy == "syscall";
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for function in old
        .functions
        .iter()
        .filter(|function| is_worse(&function.strategy))
    {
        match reasons
            .iter_mut()
            .find(|(reason, _)| *reason == function.reason)
        {
            Some((_, names)) => names.push(&function.name),
            None => reasons.push((&function.reason, vec![&function.name])),
        }
    }
    for (reason, names) in reasons {
        let _ = writeln!(text, "            {}: {reason}", names.join(", "));
    }
}

fn inside_of(text: &mut String, thread: i32, context: &Context, is_decided: bool) {
    let place = match (&context.function, context.offset) {
        (Some(function), Some(offset)) => format!("{function}+{offset:#x}"),
        _ => shared(context.place),
    };
    let _ = match context.frame {
        Some(frame) => write!(
            text,
            "  thread {thread} was interrupted in {place} (signal frame at {})",
            shown(frame)
        ),
        None => write!(text, "  thread {thread} is in {place}"),
    };
    let fate = match context.fate {
        "re-enters" => ": goes back to the entry",
        _ if is_decided => ": goes on",
        _ => "",
    };
    let _ = writeln!(text, "{fate}");
}

fn criu_alone(text: &mut String, alone: &CriuAlone, same: Option<&Task>) {
    let known = same.and_then(|task| task.criu_alone.as_ref());
    let known = known.filter(|known| known.restore == alone.restore && known.jumps == alone.jumps);
    if let (Some(known), Some(task)) = (known, same) {
        let own = alone
            .breaks
            .iter()
            .filter(|one| !known.breaks.contains(one));
        let own: Vec<&Breakage> = own.collect();
        let _ = writeln!(
            text,
            "  CRIU alone does the same to functions as in task {}",
            task.pid
        );
        broken(text, &own);
        return;
    }
    let what = match alone.restore {
        "in-place" => "puts the kernel's vDSO in its place".to_owned(),
        _ => {
            let names = alone.jumps.iter().map(|jump| jump.function);
            let names: Vec<&str> = names.collect();
            format!("overwrites the entries of {}", names.join(", "))
        }
    };
    let breaks = match alone.breaks.is_empty() {
        true => ", which breaks nothing",
        false => ". What breaks:",
    };
    let _ = writeln!(text, "  CRIU alone {what}{breaks}");
    broken(text, &alone.breaks.iter().collect::<Vec<_>>());
}

fn broken(text: &mut String, all: &[&Breakage]) {
    for broken in all.iter().take(MOST) {
        let _ = writeln!(text, "    {}", broken.message);
    }
    let more = all.len().saturating_sub(MOST);
    if more > 0 {
        let _ = writeln!(text, "    and {more} more");
    }
}
