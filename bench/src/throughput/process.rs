//! A program that runs in a namespace and ends with its owner.
//!
//! Enters: a command line. Leaves: a [`Process`] with its id and its log. Never does: leave the program behind: it is
//! ended in order when its owner is dropped, and killed by the kernel should this process be killed (setpriv's
//! --pdeathsig).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge::lab::namespace::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a program may take to end.
const END_PATIENCE: Duration = Duration::from_secs(6);
/// How often it is looked whether it still runs.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of a log that a message shows.
const LOG_LINES: usize = 15;

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    ended: Arc<OnceLock<String>>,
    /// Its end is the program's end.
    life: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Run<'n> {
    /// Where; `None` for the namespace of this process.
    pub(crate) namespace: Option<&'n Namespace>,
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    /// Its environment, beside what this process has.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    /// Where its outputs go.
    pub(crate) log: PathBuf,
}

impl Process {
    /// Starts it.
    pub(crate) fn start(run: Run<'_>) -> anyhow::Result<Self> {
        let name = run.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = File::create(&run.log).with_context(|| format!("the log {}", run.log.display()))?;
        let mut command = command(&run, out)?;
        let (life, end) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let ended = Arc::new(OnceLock::new());
        let said = Arc::clone(&ended);
        // The thread that starts a program is its parent in the eyes of --pdeathsig: it stays as long as the program
        // does.
        let mut body = move || {
            let child = match command.spawn() {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            drop(started.send(Ok(child.id())));
            said.get_or_init(|| keep(child, &end));
        };
        let keeper = match run.namespace {
            Some(namespace) => {
                let thread = namespace.spawn("keeper", move || {
                    body();
                    Ok(())
                })?;
                // A thread whose result is nothing more than that it is over.
                thread::spawn(move || drop(thread.join()))
            }
            None => {
                thread::Builder::new().name("keeper".to_owned()).spawn(body).context("a thread cannot be started")?
            }
        };
        let answer = start.recv().context("the program's thread ended before it began")?;
        let pid = answer.with_context(|| format!("{} cannot be started", run.program.display()))?;
        Ok(Self { name, pid, log: run.log, ended, life: Some(life), keeper: Some(keeper) })
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// An error once it has ended, with the end of its log.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        match self.ended.get() {
            None => Ok(()),
            Some(how) => Err(anyhow::anyhow!("{} ended by itself: {how}\n{}", self.name, self.log())),
        }
    }

    /// The end of its log, for messages.
    pub(crate) fn log(&self) -> String {
        log_end(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.life.take());
        if let Some(keeper) = self.keeper.take() {
            drop(keeper.join());
        }
    }
}

fn command(run: &Run<'_>, out: File) -> anyhow::Result<Command> {
    use std::os::unix::process::CommandExt as _;
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&run.program);
        command
    } else {
        Command::new(&run.program)
    };
    let errors = out.try_clone().context("the log's descriptor")?;
    command.args(&run.arguments).env_remove("NOTIFY_SOCKET").envs(run.environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::from(out)).stderr(Stdio::from(errors));
    // Ctrl-C is for this process, which ends the programs in order.
    command.process_group(0);
    Ok(command)
}

/// Waits until the program or its owner ends, and says how the program did.
fn keep(mut child: Child, end: &mpsc::Receiver<()>) -> String {
    let text = |status: std::io::Result<std::process::ExitStatus>| match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("it cannot be waited for: {error}"),
    };
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return status.to_string(),
            Err(error) => return text(Err(error)),
        }
        match end.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // A child that is waited for below still has its number.
    let _ended_meanwhile = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let limit = Instant::now() + END_PATIENCE;
    while Instant::now() < limit {
        if let Ok(Some(status)) = child.try_wait() {
            return status.to_string();
        }
        thread::sleep(Duration::from_millis(5));
    }
    drop(child.kill());
    text(child.wait())
}

fn log_end(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = format!("{}:\n", path.display());
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        shown.push_str(&format!("  | {line}\n"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(log: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        Process::start(Run {
            namespace: None,
            program: program.into(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: Vec::new(),
            log: log.to_owned(),
        })
    }

    #[test]
    fn a_program_ends_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let process = run(&directory.path().join("log"), "/bin/sleep", &["600"]).expect("it starts");
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(process.check().is_ok() && proc.exists());
        drop(process);
        assert!(!proc.exists(), "it has ended and was waited for");
    }

    #[test]
    fn a_program_that_ends_by_itself_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let process =
            run(&directory.path().join("log"), "/bin/sh", &["-c", "echo last words; exit 3"]).expect("starts");
        let limit = Instant::now() + Duration::from_secs(20);
        while process.check().is_ok() && Instant::now() < limit {
            thread::sleep(Duration::from_millis(10));
        }
        let error = process.check().expect_err("it has ended").to_string();
        assert!(error.contains("last words") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let started = run(&directory.path().join("log"), "/nowhere/program", &[]);
        // With setpriv between, the error is its end.
        if let Ok(process) = started {
            let limit = Instant::now() + Duration::from_secs(20);
            while process.check().is_ok() && Instant::now() < limit {
                thread::sleep(Duration::from_millis(10));
            }
            assert!(process.check().is_err());
        }
    }
}
