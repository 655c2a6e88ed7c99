//! Questions by UDP at a steady rate, as resolvers ask: each flow has one question under way at most,
//! and every question is accounted for.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::read;
use crate::lab::{Host, block_on_local};

/// A question without an answer for so long is lost. A busy machine may take seconds to run a process.
pub const LOST: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Whom.
    pub to: SocketAddr,
    /// How many questions a second, of all flows together; fewer where answers are late.
    pub rate: u32,
    /// How many flows there are at a time. All questions under way have to find room in one queue
    /// of the kernel's, which by default has 1000 places (`net.core.netdev_max_backlog`).
    pub flows: u32,
    /// After so many questions a flow ends, and another begins on a new socket.
    pub questions_of_a_flow: u32,
}

/// A question, and what became of it.
#[derive(Clone, Debug)]
pub struct Question {
    /// Which flow it was of; no two flows have the same number.
    pub flow: usize,
    /// When it was sent.
    pub sent: Instant,
    /// When its answer came, and from which pod; none: it is lost.
    pub answer: Option<(Instant, Arc<str>)>,
}

/// Questions under way.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asker: JoinHandle<Outcome>,
}

/// What became of all questions.
#[derive(Debug)]
pub struct Outcome {
    /// In the order in which they were sent.
    pub questions: Vec<Question>,
    /// From the first question to the last answer.
    pub took: Duration,
    /// Processor time of the thread that asks. What the kernel does on a question's way to the
    /// socket of its endpoint, rules included, is in it, since links between namespaces deliver
    /// within the sender's call.
    pub processor_time: Duration,
}

/// What flows share.
struct Shared {
    load: Load,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    flow_count: Cell<usize>,
}

impl Load {
    /// Begins to ask, from inside a host.
    pub fn start(self, host: &Host) -> Running {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let shared = (Arc::clone(&stop), Arc::clone(&answered));
        let asker = host.spawn(move || block_on_local(self.ask(shared.0, shared.1)));
        Running { stop, answered, asker }
    }

    async fn ask(self, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Outcome {
        let shared = Rc::new(Shared { load: self, stop, answered, flow_count: Cell::new(0) });
        let started = Instant::now();
        let mut askers = JoinSet::new();
        for number in 0..self.flows {
            askers.spawn_local(ask_on_and_on(Rc::clone(&shared), number));
        }
        let mut questions = Vec::new();
        while let Some(asked) = askers.join_next().await {
            questions.extend(asked.expect("it does not panic").expect("sockets can be used"));
        }
        let took = started.elapsed();
        questions.sort_by_key(|question: &Question| question.sent);
        let processor_time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
        let processor_time = processor_time.expect("every thread has this clock").into();
        Outcome { questions, took, processor_time }
    }
}

/// One flow after the other.
async fn ask_on_and_on(shared: Rc<Shared>, number: u32) -> io::Result<Vec<Question>> {
    let Load { to, rate, flows, questions_of_a_flow } = shared.load;
    let pause = Duration::from_secs(1) * flows / rate;
    // Spread over a pause.
    let first = tokio::time::Instant::now() + pause * number / flows;
    let mut tick = interval_at(first, pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut questions = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        let flow = shared.flow_count.replace(shared.flow_count.get() + 1);
        for _ in 0..questions_of_a_flow {
            tick.tick().await;
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            let sent = Instant::now();
            let answer = timeout(LOST, ask(&socket, questions.len())).await.ok();
            if answer.is_some() {
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
            questions.push(Question { flow, sent, answer });
        }
    }
    Ok(questions)
}

/// Asks once, and waits for the answer to this question. What is refused is not asked again.
async fn ask(socket: &UdpSocket, number: usize) -> (Instant, Arc<str>) {
    let question = number.to_string();
    let mut sent = socket.send(question.as_bytes()).await.is_ok();
    let mut datagram = [0; 512];
    loop {
        match socket.recv(&mut datagram).await {
            Ok(length) => {
                let (answer, of) = read(&datagram[..length]);
                if of == question {
                    return (Instant::now(), answer.pod.into());
                }
            }
            // An error that came before the question keeps it from being sent.
            Err(_) if !sent => sent = socket.send(question.as_bytes()).await.is_ok(),
            Err(_) => {}
        }
    }
}

impl Running {
    /// Waits until so many more questions have been answered.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn advance(&self, count: usize) {
        let answered = || self.answered.load(Ordering::Relaxed);
        let goal = answered() + count;
        crate::wait::eventually("questions are answered", crate::agent::PATIENCE, || {
            answered() >= goal
        });
    }

    /// Ends it, when the last answer has come.
    ///
    /// # Panics
    /// When a socket failed.
    pub fn finish(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        self.asker.join().expect("the asker does not panic")
    }
}

impl Outcome {
    /// Questions without an answer.
    pub fn lost(&self) -> impl Iterator<Item = &Question> {
        self.questions.iter().filter(|question| question.answer.is_none())
    }

    /// Processor time for each question.
    pub fn processor_time_each(&self) -> Duration {
        let count = u32::try_from(self.questions.len()).unwrap_or(u32::MAX);
        self.processor_time / count.max(1)
    }

    /// The time from a question to its answer that this share of the answered ones does not exceed.
    ///
    /// # Panics
    /// When nothing was answered.
    pub fn answered_within(&self, share: f64) -> Duration {
        let answered = self.questions.iter();
        let answered = answered.filter_map(|each| Some(each.answer.as_ref()?.0 - each.sent));
        let mut times: Vec<Duration> = answered.collect();
        times.sort_unstable();
        let index = (times.len() as f64 * share) as usize;
        times[index.min(times.len() - 1)]
    }
}
