//! Aim: what one agent sends the other receives whole, and whatever else comes is refused.
//! Method: both ends of a socket pair, pipes as descriptors.

use std::io::{Read as _, Write as _};

use super::*;

fn pair() -> (Channel, UnixStream) {
    let (a, b) = UnixStream::pair().expect("sockets can be made");
    (Channel::new(a), b)
}

#[tokio::test]
async fn descriptors_and_octets_arrive_with_their_message() {
    let (mut from, to) = pair();
    let mut to = Channel::new(to);
    let (mut reader, writer) = io::pipe().expect("a pipe can be made");
    let in_flight = Bytes::from(vec![7; 3 << 20]);
    let sending = async {
        from.send(Message::Ready).await?;
        from.send(Frame {
            octets: vec![in_flight.clone(), Bytes::from_static(b"tail")],
            descriptors: vec![writer.into()],
            ..Message::Listeners.into()
        })
        .await?;
        from.send(Message::Yours).await?;
        drop(from);
        io::Result::Ok(())
    };
    let receiving = async {
        let mut frames = Vec::new();
        while let Some(frame) = to.receive().await? {
            frames.push(frame);
        }
        io::Result::Ok(frames)
    };
    let (sent, frames) = tokio::join!(sending, receiving);
    sent.expect("is sent");
    let frames = frames.expect("is received");
    let messages: Vec<_> = frames.iter().map(|frame| &frame.message).collect();
    assert_eq!(messages, [&Message::Ready, &Message::Listeners, &Message::Yours]);
    assert!(frames[0].descriptors.is_empty() && frames[2].descriptors.is_empty());
    let octets = &frames[1].octets[0];
    assert_eq!(octets.len(), in_flight.len() + 4);
    assert!(octets.starts_with(&in_flight) && octets.ends_with(b"tail"));
    let [writer] = <[OwnedFd; 1]>::try_from(frames.into_iter().nth(1).expect("three").descriptors)
        .expect("one descriptor");
    io::PipeWriter::from(writer).write_all(b"alive").expect("is the same pipe");
    let mut heard = String::new();
    reader.read_to_string(&mut heard).expect("ends with its last writer");
    assert_eq!(heard, "alive");
}

#[tokio::test]
async fn as_many_descriptors_go_as_the_kernel_allows() {
    let (mut from, to) = pair();
    let (_reader, writer) = io::pipe().expect("a pipe can be made");
    let writer = OwnedFd::from(writer);
    let copies = (0..MOST_DESCRIPTORS).map(|_| writer.try_clone());
    let descriptors = copies.collect::<Result<_, _>>().expect("descriptors are free");
    from.send(Frame { descriptors, ..Message::Listeners.into() }).await.expect("is sent");
    let frame = Channel::new(to).receive().await.expect("is received").expect("is there");
    assert_eq!(frame.descriptors.len(), MOST_DESCRIPTORS);
}

#[tokio::test]
async fn what_is_no_frame_is_an_error() {
    let huge = [0xff; 8];
    let no_json = [0, 0, 0, 1, 0, 0, 0, 0, b'x'];
    let unknown = [&[0, 0, 0, 15, 0, 0, 0, 0][..], br#"{"message":"x"}"#].concat();
    let cut_header = [0, 0, 0];
    let cut_message = [0, 0, 0, 9, 0, 0, 0, 0, b'{'];
    for octets in [&huge[..], &no_json, &unknown, &cut_header, &cut_message] {
        let (channel, mut raw) = pair();
        raw.write_all(octets).await.expect("is taken");
        drop(raw);
        let mut channel = channel;
        channel.receive().await.expect_err("is no frame");
    }
}
