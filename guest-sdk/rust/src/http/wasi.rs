//! Requests through `wasi:http`.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

use super::{HttpError, Request, Response, parts};

/// Bytes written or read at once; WASI lets a blocking write have no more.
const CHUNK: usize = 4096;

pub(crate) fn send(request: &Request) -> Result<Response, HttpError> {
    let origin = &request.origin();
    let invalid = |what: &str| HttpError::Invalid(what.to_owned());
    let address = || invalid("this address");
    let (https, authority, path) = parts(&request.url).ok_or_else(address)?;
    let mut headers: Vec<(String, Vec<u8>)> =
        request.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone().into_bytes())).collect();
    if !request.body.is_empty() {
        headers.push(("content-length".to_owned(), request.body.len().to_string().into_bytes()));
    }
    let headers = Fields::from_list(&headers).map_err(|error| invalid(&format!("these headers ({error})")))?;

    let outgoing = OutgoingRequest::new(headers);
    let scheme = if https { Scheme::Https } else { Scheme::Http };
    outgoing.set_method(&method(&request.method)).map_err(|()| invalid("this method"))?;
    outgoing.set_scheme(Some(&scheme)).map_err(|()| address())?;
    outgoing.set_authority(Some(authority)).map_err(|()| address())?;
    outgoing.set_path_with_query(Some(path)).map_err(|()| address())?;

    let options = RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let timeout = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        let set = options
            .set_connect_timeout(timeout)
            .and_then(|()| options.set_first_byte_timeout(timeout))
            .and_then(|()| options.set_between_bytes_timeout(timeout));
        set.map_err(|()| invalid("this timeout"))?;
    }

    let body = if request.body.is_empty() { None } else { Some(outgoing.body().map_err(|()| invalid("a body"))?) };
    let failed = |error: ErrorCode| describe(origin, error);
    let answer = outgoing_handler::handle(outgoing, Some(options)).map_err(failed)?;
    if let Some(body) = body {
        // What the host refuses or the server does not want to hear ends the stream; the answer says why.
        if write(&body, &request.body).is_ok() {
            OutgoingBody::finish(body, None).map_err(failed)?;
        }
    }
    answer.subscribe().block();
    match answer.get() {
        Some(Ok(answer)) => read(origin, &answer.map_err(failed)?),
        _ => Err(HttpError::Failed(origin.clone(), "the host gives none".to_owned())),
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: &OutgoingBody, content: &[u8]) -> Result<(), ()> {
    let stream = body.write()?;
    content.chunks(CHUNK).try_for_each(|chunk| stream.blocking_write_and_flush(chunk).map_err(drop))
}

fn read(origin: &str, answer: &IncomingResponse) -> Result<Response, HttpError> {
    let failed = |what: &str| HttpError::Failed(origin.to_owned(), what.to_owned());
    let (status, headers) = (answer.status(), answer.headers().entries());
    let incoming = answer.consume().map_err(|()| failed("its content was taken"))?;
    let stream = incoming.stream().map_err(|()| failed("its content was taken"))?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(CHUNK as u64) {
            Ok(bytes) => body.extend(bytes),
            Err(StreamError::Closed) => return Ok(Response { status, headers, body }),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match wasip2::http::types::http_error_code(&error) {
                    Some(code) => describe(origin, code),
                    None => failed(&error.to_debug_string()),
                });
            }
        }
    }
}

fn describe(origin: &str, error: ErrorCode) -> HttpError {
    let origin = origin.to_owned();
    match error {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => HttpError::Denied(origin),
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout
        | ErrorCode::DnsTimeout => HttpError::Timeout(origin),
        ErrorCode::HttpRequestUriInvalid => HttpError::Invalid(format!("an address at {origin}")),
        other => HttpError::Failed(origin, other.to_string()),
    }
}
