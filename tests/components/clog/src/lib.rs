//! A handler that makes the host keep what it never sends: with `bodies N`, bodies of N requests, each as much as the host takes, and with
//! `headers N K`, N lists of headers of K thousand bytes. It publishes to `out.clog` how many bytes those are.

use parti_guest::{Error, Failure, Handler, Message, OpenReason, OrFail, Partition, Snapshot, Verdict};
use wasip2::http::types::{Fields, OutgoingBody, OutgoingRequest};
use wasip2::io::streams::OutputStream;

struct Clog;

/// The parts of a request that was begun, the innermost first, as they have to be let go of.
type Begun = (OutputStream, OutgoingBody, OutgoingRequest);

fn with_body() -> Result<(Begun, u64), Failure> {
    let request = OutgoingRequest::new(Fields::new());
    let body = request.body().map_err(|()| Failure::reject("no body"))?;
    let stream = body.write().map_err(|()| Failure::reject("no stream"))?;
    let mut taken = 0;
    loop {
        let permitted = stream.check_write().or_reject()?;
        if permitted == 0 {
            return Ok(((stream, body, request), taken));
        }
        stream.write(&vec![b'x'; usize::try_from(permitted).or_reject()?]).or_reject()?;
        taken += permitted;
    }
}

fn headers(thousands: u64) -> Result<(Fields, u64), Failure> {
    let (fields, value) = (Fields::new(), [b'x'; 1000]);
    (0..thousands).try_for_each(|_| fields.append("x-clog", &value)).or_reject()?;
    Ok((fields, thousands * 1000))
}

/// Does it so often, keeps all of it until the end, and says how many bytes the host has taken.
fn all<T>(times: u64, begin: impl Fn() -> Result<(T, u64), Failure>) -> Result<u64, Failure> {
    let kept = (0..times).map(|_| begin()).collect::<Result<Vec<_>, _>>()?;
    Ok(kept.iter().map(|(_, taken)| taken).sum())
}

impl Handler for Clog {
    fn open(_: &Partition, _: OpenReason, _: Option<Snapshot>) -> Result<Self, Error> {
        Ok(Self)
    }

    fn handle(&mut self, message: &Message) -> Verdict {
        let mut words = message.text()?.split(' ');
        let what = words.next();
        let mut number = || words.next().unwrap_or_default().parse::<u64>().or_reject();
        let (times, thousands) = (number()?, number().unwrap_or_default());
        let taken = if what == Some("bodies") { all(times, with_body) } else { all(times, || headers(thousands)) };
        message.publish("out.clog", taken?.to_string())?;
        Ok(())
    }
}

parti_guest::export!(Clog);
