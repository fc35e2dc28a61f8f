//! No file of the program needs one that needs it.
//!
//! Reads imports and qualified paths as text, and follows what a room's `mod.rs` hands on to
//! the file that has it; handing on is no need. Tests inside a file are left out. Does not
//! see what a macro makes.

use std::collections::{BTreeMap, BTreeSet};

use super::sources;

type Path = Vec<String>;

#[derive(Default)]
struct Module {
    file: String,
    children: BTreeSet<String>,
    /// What a `pub use` hands on, and what a `use` brings in, by its name here.
    handed_on: BTreeMap<String, Path>,
    imported: BTreeMap<String, Path>,
    /// Paths in the code that begin at the crate, at a parent or at a child.
    named: Vec<Path>,
}

fn split(path: &str) -> Path {
    path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `a::{b, c::{self, d as e}}` is `a::b`, `a::c` and `a::c::d`, which is called `e` here.
fn leaves(tree: &str, prefix: &[String], found: &mut BTreeMap<String, Path>) {
    let tree = tree.trim();
    if let Some((head, list)) = tree.split_once('{') {
        let prefix = [prefix, &split(head)].concat();
        let list = list.strip_suffix('}').expect("a brace");
        let (mut depth, mut from) = (0, 0);
        for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                leaves(&list[from..at], &prefix, found);
                from = at + 1;
            }
        }
    } else if !tree.is_empty() {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut path = [prefix, &split(path)].concat();
        path.pop_if(|last| last == "self");
        let name = if name.is_empty() { path.last().expect("a name") } else { name };
        found.insert(name.to_owned(), path.clone());
    }
}

/// Every `a::b::c` of a text.
fn paths(code: &str) -> impl Iterator<Item = Path> + '_ {
    let in_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(move |c| !in_path(c)).filter(|word| word.contains("::"));
    words.filter(|word| !word.starts_with(':')).map(split)
}

impl Module {
    fn read(file: &str, text: &str) -> Module {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        let mut rest = String::new();
        for statement in code.join("\n").split_inclusive(';') {
            let line = statement.rsplit("\n\n").next().unwrap_or_default().trim();
            let line = line.rsplit("]\n").next().unwrap_or_default();
            let (public, bare) = match line.strip_prefix("pub") {
                Some(bare) => (true, bare.trim_start_matches(|c| c != ' ').trim_start()),
                None => (false, line),
            };
            let bare = bare.trim_end_matches(';');
            if let Some(tree) = bare.strip_prefix("use ") {
                let into = if public { &mut module.handed_on } else { &mut module.imported };
                leaves(tree, &[], into);
            } else if let Some(child) = bare.strip_prefix("mod ").filter(|c| !c.contains(' ')) {
                module.children.insert(child.to_owned());
            } else {
                rest.push_str(statement);
            }
        }
        let heads = ["crate", "super", "self"];
        let begins = |path: &Path| heads.contains(&&*path[0]) || module.children.contains(&path[0]);
        module.named = paths(&rest).filter(begins).collect();
        module
    }
}

/// Every module, by its path from the crate.
fn modules() -> BTreeMap<Path, Module> {
    let read = |(file, text): (String, String)| {
        let path = file.strip_prefix("src/")?.strip_suffix(".rs")?.replace('/', "::");
        let path = path.trim_end_matches("::mod");
        let path = if path == "lib" { Path::new() } else { split(path) };
        (path != ["main"]).then(|| (path, Module::read(&file, &text)))
    };
    sources("src").into_iter().filter_map(read).collect()
}

/// The module that has what a path in `from` names; none if that is another crate's.
fn owner(all: &BTreeMap<Path, Module>, from: &Path, path: &[String], depth: u8) -> Option<Path> {
    let mut at = from.clone();
    let mut path = path;
    match &*path[0] {
        "crate" => at = Path::new(),
        "self" => {}
        "super" => {
            while path.get(1).is_some_and(|next| next == "super") {
                at.pop()?;
                path = &path[1..];
            }
            at.pop()?;
        }
        _ if all[from].children.contains(&path[0]) => at.push(path[0].clone()),
        _ => return None,
    }
    for (done, name) in path.iter().enumerate().skip(1) {
        let module = all.get(&at)?;
        if module.children.contains(name) {
            at.push(name.clone());
            continue;
        }
        // Also what a parent only imports, since its children may name it.
        let on = module.handed_on.get(name).or_else(|| module.imported.get(name));
        return match on {
            Some(on) if depth < 8 => owner(all, &at, &[on, &path[done + 1..]].concat(), depth + 1),
            _ => Some(at),
        };
    }
    Some(at)
}

/// What each file needs.
fn needs() -> BTreeMap<String, BTreeSet<String>> {
    let all = modules();
    let needs_of = |(path, module): (&Path, &Module)| {
        let named = module.imported.values().chain(&module.named);
        let files = named.filter_map(|to| owner(&all, path, to, 0));
        let files = files.filter_map(|to| all.get(&to)).map(|to| to.file.clone());
        (module.file.clone(), files.filter(|file| *file != module.file).collect())
    };
    all.iter().map(needs_of).collect()
}

#[test]
fn no_file_needs_one_that_needs_it() {
    let mut needs = needs();
    let knows = |from: &str, to: &str| needs[from].contains(to);
    assert!(knows("src/log/append.rs", "src/event.rs"), "imports were not read");
    assert!(knows("src/intake/writers.rs", "src/log/handle.rs"), "nothing was followed");
    assert!(!knows("src/log/mod.rs", "src/log/handle.rs"), "handing on is no need");
    // Whatever needs nothing that is left, or is needed by nothing, is in no circle.
    loop {
        let left: BTreeSet<String> = needs.keys().cloned().collect();
        let needed: BTreeSet<String> = needs.values().flatten().cloned().collect();
        needs.values_mut().for_each(|to| to.retain(|to| left.contains(to)));
        needs.retain(|from, to| !to.is_empty() && needed.contains(from));
        if needs.len() == left.len() {
            break;
        }
    }
    assert!(needs.is_empty(), "in circles, or on a way from one to another: {needs:#?}");
}
