//! Asks all cells, those of one client beside each other, until each has its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use streamvs_support::agent::PATIENCE;
use streamvs_support::lab::Host;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::cell::{By, Cell, Client, Endpoints, Outcome, Protocol, Seen, in_words};
use super::services::{HERE, Nodes, THERE};

/// What is not answered for so long is not answered. Longer than the kernel's first SYN
/// retransmission (1 s).
const SILENCE: Duration = Duration::from_millis(1500);

/// How many of a client's questions that have an answer are on their way together: more than an
/// endpoint's backlog (128, by all clients) would wait for SYN retransmissions.
const TOGETHER: usize = 24;

/// How often more a cell with two endpoints is asked of which one alone may answer.
const AGAIN: u32 = 6;

/// A cell whose answers are not what was wanted.
#[derive(Debug)]
pub(crate) struct Wrong {
    cell: Cell,
    wanted: BTreeSet<Outcome>,
    /// The last wrong answer, or the right ones if one of several never came.
    got: BTreeSet<Outcome>,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cell, wanted, got } = self;
        write!(f, "{cell}: {}, not {}", in_words(got), in_words(wanted))
    }
}

/// Asks each cell, and returns those that never got what is wanted, or once got something else
/// after it: the rules of a proxy come a little after what it was told.
pub(crate) fn ask_all(nodes: &Nodes, cells: &[(Cell, BTreeSet<Outcome>)]) -> Vec<Wrong> {
    let mut by_client: BTreeMap<Client, Vec<&(Cell, BTreeSet<Outcome>)>> = BTreeMap::new();
    for cell in cells {
        by_client.entry(cell.0.client).or_default().push(cell);
    }
    std::thread::scope(|scope| {
        let asking: Vec<_> = by_client
            .into_values()
            .map(|cells| scope.spawn(move || ask_of_one_client(nodes, &cells)))
            .collect();
        asking.into_iter().flat_map(|asked| asked.join().expect("a client asks")).collect()
    })
}

fn ask_of_one_client(nodes: &Nodes, cells: &[&(Cell, BTreeSet<Outcome>)]) -> Vec<Wrong> {
    let host = cells[0].0.host(&nodes.lab);
    host.block_on(|| async {
        let together = Semaphore::new(TOGETHER);
        let ask = |(cell, wanted): &&(Cell, BTreeSet<Outcome>)| {
            until_right(nodes, *cell, wanted.clone(), &together)
        };
        join_all(cells.iter().map(ask)).await.into_iter().flatten().collect()
    })
}

async fn until_right(
    nodes: &Nodes,
    cell: Cell,
    wanted: BTreeSet<Outcome>,
    together: &Semaphore,
) -> Option<Wrong> {
    let deadline = Instant::now() + PATIENCE;
    let again = if cell.kind.endpoints == Endpoints::Both && wanted.len() == 1 { AGAIN } else { 0 };
    let mut right = BTreeSet::new();
    let mut right_count = 0;
    loop {
        // Who waits for nothing keeps nobody from asking.
        let waits = wanted.contains(&Outcome::Silence);
        let permit = if waits { None } else { Some(together.acquire().await) };
        let outcome = ask(nodes, &cell).await;
        drop(permit);
        let is_late = Instant::now() > deadline;
        if wanted.contains(&outcome) {
            right.insert(outcome);
            right_count += 1;
            if right == wanted && right_count > again {
                return None;
            }
            if is_late {
                return Some(Wrong { cell, wanted, got: right });
            }
        } else if is_late || right_count > 0 {
            return Some(Wrong { cell, wanted, got: [outcome].into() });
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Asks once.
async fn ask(nodes: &Nodes, cell: &Cell) -> Outcome {
    let to = cell.address(&nodes.lab);
    let answer = match cell.protocol {
        Protocol::Tcp => ask_by_tcp(to).await,
        Protocol::Udp => ask_by_udp(to).await,
    };
    match answer {
        Ok(text) => served(nodes, cell, &text),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Outcome::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
            ErrorKind::TimedOut => Outcome::Silence,
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => Outcome::Broken,
            _ => panic!("{cell}: {error}"),
        },
    }
}

/// `NAME CLIENT`, as the endpoints say.
fn served(nodes: &Nodes, cell: &Cell, text: &str) -> Outcome {
    // A datagram's answer repeats the question behind them.
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next().unwrap_or_else(|| panic!("{cell}: answered {text:?}"));
    let (name, client) = (next(), next());
    let by = match name {
        HERE => By::Here,
        THERE => By::There,
        _ => panic!("{cell}: answered by {name}"),
    };
    let Ok(client) = client.parse::<SocketAddr>() else { panic!("{cell}: answered {text:?}") };
    let client: IpAddr = client.ip().to_canonical();
    let host: &Host = cell.host(&nodes.lab);
    let seen = if nodes.of_node(cell.family).contains(&client) {
        Seen::Node
    } else if client == host.ip(cell.family) {
        Seen::Client
    } else {
        Seen::Stranger
    };
    Outcome::Served(by, seen)
}

async fn ask_by_tcp(to: SocketAddr) -> io::Result<String> {
    let mut socket = timeout(SILENCE, TcpStream::connect(to)).await??;
    let mut text = String::new();
    let read = timeout(PATIENCE, socket.read_to_string(&mut text)).await;
    if read.map_err(|_| io::Error::from(ErrorKind::UnexpectedEof))?? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}

async fn ask_by_udp(to: SocketAddr) -> io::Result<String> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    match socket.send(b"who?").await {
        // A process of the node hears so of a rule that drops, and of one that refuses; the second
        // one's refusal comes as well.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        sent => drop(sent?),
    }
    let mut datagram = [0; 128];
    let length = timeout(SILENCE, socket.recv(&mut datagram)).await??;
    Ok(String::from_utf8_lossy(&datagram[..length]).into_owned())
}
