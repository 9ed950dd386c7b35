//! TCP and UDP flows from end to end.

use smoltcp::socket::tcp::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::guest::{Guest, stack};
use crate::egress::Transport;
use crate::egress::stack::{Limits, Pending, Refusal};

#[tokio::test]
async fn nothing_is_acknowledged_before_a_connection_is_accepted() {
    for to in ["192.0.2.7:443", "[2001:db8::7]:443"] {
        let (_stack, mut incoming, wire, _) = stack(Limits::default());
        let mut guest = Guest::new(wire);
        let handle = guest.connect(to);
        let mut asked = None;
        guest
            .until(|_| {
                asked = asked.take().or(incoming.try_recv().ok());
                asked.is_some()
            })
            .await;
        let asked = asked.unwrap();
        assert_eq!(asked.flow.transport, Transport::Tcp);
        assert_eq!(
            format!(
                "{}",
                std::net::SocketAddr::new(asked.flow.address, asked.flow.port)
            ),
            to
        );
        let mut turns = 0;
        guest
            .until(|guest| {
                turns += 1;
                assert_eq!(guest.state(handle), State::SynSent);
                turns > 50
            })
            .await;

        let Pending::Stream(pending) = asked.pending else {
            panic!("a stream");
        };
        let accepting = tokio::spawn(pending.accept());
        guest
            .until(|guest| guest.state(handle) == State::Established)
            .await;
        let mut stream = loop {
            guest.until(|_| true).await;
            if accepting.is_finished() {
                break accepting.await.unwrap().unwrap();
            }
            tokio::task::yield_now().await;
        };
        stream.write_all(b"hello").await.unwrap();
        guest.until(|guest| guest.socket(handle).can_recv()).await;
        guest.socket(handle).recv_slice(&mut [0; 5]).unwrap();
        guest.socket(handle).send_slice(b"good day").unwrap();
        guest.socket(handle).close();
        guest.until(|_| true).await;
        let mut text = String::new();
        let reading = tokio::spawn(async move {
            stream.read_to_string(&mut text).await.unwrap();
            // The guest's end does not end ours.
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            text
        });
        guest
            .until(|guest| guest.socket(handle).recv_queue() == 3)
            .await;
        assert_eq!(reading.await.unwrap(), "good day");
        guest
            .until(|guest| matches!(guest.state(handle), State::TimeWait | State::Closed))
            .await;
    }
}

#[tokio::test]
async fn a_refused_connection_is_refused_at_once() {
    let (stack, mut incoming, wire, _) = stack(Limits::default());
    let mut guest = Guest::new(wire);
    for round in 0..2 {
        let handle = guest.connect("192.0.2.7:443");
        let mut asked = None;
        guest
            .until(|_| {
                asked = asked.take().or(incoming.try_recv().ok());
                asked.is_some()
            })
            .await;
        match round {
            0 => asked.unwrap().pending.refuse(Refusal::Reset),
            _ => drop(asked),
        }
        guest
            .until(|guest| guest.state(handle) == State::Closed)
            .await;
        assert_eq!(stack.statistics().connections, 0);
        assert_eq!(stack.statistics().half_open, 0);
    }
}
