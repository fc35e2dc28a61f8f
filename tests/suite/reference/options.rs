//! The options, as the program itself has them.

use clap::{Arg, Command};

use super::{header, row};

/// `--listen ADDR`, or `FILE` where there is no name.
fn name(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = arg.get_action().takes_values();
    let value = if takes { values.join(" ") } else { String::new() };
    match arg.get_long() {
        Some(long) => format!("`{}`", format!("--{long} {value}").trim_end()),
        None => format!("`{value}`"),
    }
}

/// What it is when nobody says anything.
fn default(arg: &Arg) -> String {
    let values: Vec<_> = arg.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    let text = values.join(",");
    match (arg.is_required_set(), text.is_empty() || !arg.get_action().takes_values()) {
        (true, _) => "has to be given".to_owned(),
        (false, true) => String::new(),
        (false, false) => format!("`{text}`"),
    }
}

fn says(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    match values.is_empty() {
        true => help,
        false => format!("{help}: {}", values.join(", ")),
    }
}

fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let mut text = header(&["option", "variable", "default", "what"]);
    for arg in args {
        let variable = arg.get_env().map(|env| format!("`{}`", env.to_string_lossy()));
        let cells = [&*name(arg), &variable.unwrap_or_default(), &default(arg), &says(arg)];
        text.push_str(&row(cells));
    }
    text
}

fn is_told(arg: &&Arg) -> bool {
    !["help", "version"].contains(&arg.get_id().as_str())
}

/// A table of what all commands take, and one for each command.
pub fn tables() -> String {
    let program: Command = vitals::command::options();
    let common: Vec<&Arg> = program.get_arguments().filter(is_told).collect();
    let mut text = format!("\n## Every command\n\n{}", table(common.iter().copied()));
    for command in program.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("\n## `vitals {}`\n\n{about}.\n", command.get_name()));
        let own: Vec<&Arg> = command.get_arguments().filter(is_told).collect();
        if !own.is_empty() {
            text.push('\n');
            text.push_str(&table(own.into_iter()));
        }
    }
    text
}
