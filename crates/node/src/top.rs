//! `streamvs top`: the busiest Services, again and again.
//!
//! A process of its own that asks the agent's socket; what it costs the agent is one `list` each
//! time. On a terminal it takes the whole screen and leaves it as it was; elsewhere it prints one
//! screen after the other.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use streamvs_admin::list::{self, Room, ServiceView};
use tokio::runtime::Runtime;

use crate::app::control_runtime;
use crate::cli::TopOptions;
use crate::error::Error;

/// Runs until it is told to stop, or once.
pub(crate) fn run(options: &TopOptions) -> Result<(), Error> {
    let mut samples = Samples::start(options)?;
    if !options.once && std::io::stdout().is_terminal() {
        let screen = Screen::enter()?;
        return screen.run(&mut samples, options.interval);
    }
    loop {
        std::thread::sleep(options.interval);
        let text = samples.next(Room::default())?;
        std::io::stdout().write_all(text.as_bytes()).map_err(Error::Output)?;
        if options.once {
            return Ok(());
        }
    }
}

/// The agent's answers, one after the other.
struct Samples<'a> {
    options: &'a TopOptions,
    runtime: Runtime,
    last: Vec<ServiceView>,
    taken_at: Instant,
}

impl<'a> Samples<'a> {
    fn start(options: &'a TopOptions) -> Result<Self, Error> {
        let runtime = control_runtime()?;
        let last = runtime.block_on(list::fetch(&options.admin_socket)).map_err(Error::Admin)?;
        Ok(Self { options, runtime, last, taken_at: Instant::now() })
    }

    /// What happened since the last time, as one screen.
    fn next(&mut self, room: Room) -> Result<String, Error> {
        let fetching = list::fetch(&self.options.admin_socket);
        let now = self.runtime.block_on(fetching).map_err(Error::Admin)?;
        let elapsed = self.taken_at.elapsed();
        self.taken_at += elapsed;
        let text = list::render_top(&self.last, now.clone(), elapsed, room);
        self.last = now;
        Ok(text)
    }
}

/// A terminal without its usual lines and echo, until this is dropped.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Error> {
        terminal::enable_raw_mode().map_err(Error::Output)?;
        let screen = Self;
        execute!(std::io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)
            .map_err(Error::Output)?;
        Ok(screen)
    }

    fn run(self, samples: &mut Samples<'_>, interval: Duration) -> Result<(), Error> {
        loop {
            let (columns, rows) = terminal::size().map_err(Error::Output)?;
            let room = Room { rows: Some(rows.into()), columns: Some(columns.into()) };
            draw(&samples.next(room)?).map_err(Error::Output)?;
            if asked_to_stop(interval).map_err(Error::Output)? {
                return Ok(());
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = execute!(std::io::stdout(), cursor::Show, terminal::LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn draw(text: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    queue!(output, cursor::MoveTo(0, 0))?;
    for (index, line) in text.lines().enumerate() {
        // The last line has no end, for it would move all others up.
        if index > 0 {
            queue!(output, style::Print("\r\n"))?;
        }
        queue!(output, style::Print(line), terminal::Clear(terminal::ClearType::UntilNewLine))?;
    }
    queue!(output, terminal::Clear(terminal::ClearType::FromCursorDown))?;
    output.flush()
}

/// Waits for the next time. True: `q`, Escape or Ctrl-C came before it. A new size ends the wait.
fn asked_to_stop(interval: Duration) -> std::io::Result<bool> {
    let due = Instant::now() + interval;
    while event::poll(due.saturating_duration_since(Instant::now()))? {
        match event::read()? {
            Event::Key(KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. }) => {
                return Ok(true);
            }
            Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. })
                if modifiers.contains(KeyModifiers::CONTROL) =>
            {
                return Ok(true);
            }
            Event::Resize(..) => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}
