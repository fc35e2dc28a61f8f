//! A reader's shell: one bash for a whole document, and what is printed on its screen.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::pages::{agree, normalised};
use crate::support::disk::Dir;
use crate::support::eventually;

/// A block's commands in a debug build on a busy machine, and a server's end.
const DONE_MAX: Duration = Duration::from_secs(60);
/// What is printed by what runs in the background comes this much later at most.
const PRINTED_MAX: Duration = Duration::from_secs(15);

/// Reads names of files and runs each in this very shell, as if it were typed. What it says
/// about itself cannot be mistaken for the output of a command.
const TYPIST: &str = r#"
set -eo pipefail
trap 'printf "\x1f%s\x1f" "$?"' EXIT
while read -r block; do
  source "$block" < /dev/null
  printf '\x1e'
done
"#;
/// What the documents' receiver prints while other commands do.
const BACKGROUND: [&str; 3] = ["VERIFIED ", "REPEAT ", "FORGED "];
const DONE: char = '\x1e';
const ENDED: char = '\x1f';

/// A bash whose background processes end with it.
pub struct Shell {
    dir: Dir,
    bash: Child,
    group: Pid,
    keyboard: Option<ChildStdin>,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
    /// What documents name, and what it is called here.
    names: Vec<(&'static str, String)>,
    /// How much of the screen earlier blocks have filled.
    seen: usize,
    blocks: usize,
}

/// A port that nobody has, and that the system gives to nobody by itself before it is used.
fn free_port() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + std::process::id() as u16 % 5_000 * 2;
    let ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed));
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.take(2_000).find(is_free).expect("a free port").to_string()
}

/// Nothing of this process's surroundings but where programs are.
fn bash(dir: &Path, listen: &str) -> Command {
    let mut command = Command::new("bash");
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy().into_owned();
        if ["VITALS_", "PG", "DATABASE_URL"].iter().any(|begin| name.starts_with(begin)) {
            command.env_remove(key);
        }
    }
    let program = Path::new(env!("CARGO_BIN_EXE_vitals")).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .args(["-c", TYPIST])
        .current_dir(dir)
        .env("PATH", format!("{}:{path}", program.display()))
        .env("VITALS_DATA_DIR", dir)
        .env("VITALS_LISTEN", listen)
        .env("VITALS_DRAIN", "0s")
        .env("no_proxy", "*")
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// Lines with those of the background after the others: nobody knows when these come.
fn foreground_first(lines: Vec<String>) -> Vec<String> {
    let is_background = |line: &String| BACKGROUND.iter().any(|begin| line.starts_with(begin));
    let (late, first): (Vec<_>, Vec<_>) = lines.into_iter().partition(is_background);
    [first, late].concat()
}

async fn copy(mut from: ChildStdout, to: Arc<Mutex<Vec<u8>>>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        to.lock().unwrap().extend_from_slice(&bytes[..count]);
    }
}

impl Shell {
    /// In an empty directory, which is also where vitals keeps its data; with other ports.
    pub async fn start() -> Shell {
        let dir = Dir::new("documents");
        let names = vec![("8080", free_port()), ("9000", free_port())];
        let mut bash = bash(dir.path(), &format!("127.0.0.1:{}", names[0].1))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("stderr")).expect("a file"))
            .spawn()
            .expect("bash: script/install says what is missing");
        let group = Pid::from_raw(bash.id().expect("it runs") as i32).expect("a process id");
        let screen = Arc::default();
        let reader =
            tokio::spawn(copy(bash.stdout.take().expect("it is piped"), Arc::clone(&screen)));
        let keyboard = bash.stdin.take();
        Shell { dir, bash, group, keyboard, screen, reader, names, seen: 0, blocks: 0 }
    }

    /// Makes a file of somewhere else one of this directory.
    pub fn link(&self, file: &Path, name: &str) {
        let file = file.canonicalize().expect("a recording");
        std::os::unix::fs::symlink(file, self.dir.path().join(name)).expect("a link");
    }

    /// What documents name is called so here.
    pub fn call(&mut self, named: &'static str, here: String) {
        self.names.push((named, here));
    }

    fn as_here(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (named, here)| text.replace(named, here))
    }

    /// What has been printed since the last block.
    fn printed(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()[self.seen..]).into_owned()
    }

    /// Runs a block; fails at `place` when a command fails, or prints something else.
    pub async fn run(&mut self, place: &str, commands: &str, shown: Option<&str>) {
        self.blocks += 1;
        let file = self.dir.path().join(format!("block-{}.sh", self.blocks));
        std::fs::write(&file, self.as_here(commands)).expect("a file");
        let line = format!("{}\n", file.display());
        let keyboard = self.keyboard.as_mut().expect("a shell that lives");
        keyboard.write_all(line.as_bytes()).await.expect("a shell that reads");
        eventually(place, DONE_MAX, async || self.printed().contains([DONE, ENDED]).then_some(()))
            .await;
        if self.printed().contains(ENDED) {
            panic!("{place}: a command failed\n{}", self.said());
        }
        let Some(shown) = shown else {
            self.seen = self.screen.lock().unwrap().len();
            return;
        };
        let shown = foreground_first(normalised(&self.as_here(shown)));
        let agreed = async || {
            let printed = self.printed();
            let lines = foreground_first(normalised(&printed.replace(DONE, "")));
            agree(&shown, &lines).then_some(self.seen + printed.len())
        };
        let agreed = eventually("the output", 2 * PRINTED_MAX, agreed);
        let agreed = tokio::time::timeout(PRINTED_MAX, agreed).await.ok();
        self.seen = agreed.unwrap_or_else(|| {
            panic!("{place}: shown was\n{}\n\n{}", shown.join("\n"), self.said())
        });
    }

    /// What a reader would see who wonders.
    fn said(&self) -> String {
        let errors = std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
        let last: Vec<&str> = errors.lines().rev().take(20).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        format!("printed was\n{}\n\nand on stderr at last\n{last}", self.printed())
    }

    /// Ends what runs in the background, and sees it gone.
    pub async fn end(mut self) {
        self.keyboard = None;
        self.bash.wait().await.expect("a child");
        let _nobody_is_left = kill_process_group(self.group, Signal::TERM);
        // The screen is dark when nobody holds it any more.
        let gone = async || self.reader.is_finished().then_some(());
        eventually("the background to end", DONE_MAX, gone).await;
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _gone_already = kill_process_group(self.group, Signal::KILL);
    }
}
