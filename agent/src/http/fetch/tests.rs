#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    thread::JoinHandle,
};

use super::*;

/// Answers one connection after the other with these bytes; gives the requests back.
pub(crate) fn serve(answers: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            requests.push(head);
            stream.write_all(&answer).unwrap();
        }
        requests
    });
    (base, thread)
}

/// An answer with a body.
pub(crate) fn answer(head: &str, length: usize, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn got(url: &str, from: u64, bytes: u64) -> (Vec<u8>, Option<u64>, Result<(), FetchError>) {
    let (mut taken, mut begin) = (Vec::new(), None);
    let wanted = Wanted {
        url,
        from,
        bytes,
        authorities: Authorities::default(),
    };
    let outcome = fetch(wanted, |piece| {
        match piece {
            Piece::Begin(at) => begin = Some(at),
            Piece::Bytes(bytes) => taken.extend_from_slice(bytes),
        }
        Ok(())
    });
    (taken, begin, outcome)
}

#[test]
fn it_goes_on_where_it_stopped_or_begins_anew() {
    let (base, server) = serve(vec![
        answer(
            "206 Partial Content\r\nContent-Range: bytes 3-6/7",
            4,
            b"3456",
        ),
        answer("200 OK", 7, b"0123456"),
        answer("302 Found\r\nLocation: /other", 0, b""),
        answer("200 OK", 7, b"0123456"),
    ]);
    let url = format!("{base}/a/file?x=1");
    let (taken, begin, outcome) = got(&url, 3, 7);
    outcome.unwrap();
    assert_eq!((&taken[..], begin), (&b"3456"[..], Some(3)));
    let (taken, begin, outcome) = got(&url, 3, 7);
    outcome.unwrap();
    assert_eq!((&taken[..], begin), (&b"0123456"[..], Some(0)));
    got(&url, 0, 7).2.unwrap();
    let requests = server.join().unwrap();
    assert!(requests[0].starts_with("GET /a/file?x=1 HTTP/1.1\r\n"));
    assert!(
        requests[0].contains("range: bytes=3-\r\n"),
        "{}",
        requests[0]
    );
    assert!(!requests[2].contains("range:"));
    assert!(requests[3].starts_with("GET /other "));
}

#[test]
fn what_is_no_file_is_an_error_and_some_of_them_pass() {
    let (base, server) = serve(vec![
        answer("404 Not Found", 0, b""),
        answer("503 Service Unavailable", 0, b""),
        answer("200 OK", 9, b"012345678"),
        answer("200 OK", 9, b"0123"),
        b"nonsense\r\n\r\n".to_vec(),
        answer(
            "206 Partial Content\r\nContent-Range: bytes 5-6/7",
            2,
            b"56",
        ),
    ]);
    let passing = |from| {
        let (taken, _, outcome) = got(&base, from, 7);
        let error = outcome.unwrap_err();
        (taken.len(), error.is_passing(), error.to_string())
    };
    assert_eq!(passing(0), (0, false, "the server answered 404".into()));
    assert_eq!(passing(0), (0, true, "the server answered 503".into()));
    assert!(!passing(0).1, "too long");
    let (length, passes, _) = passing(0);
    assert_eq!((length, passes), (4, true), "cut off");
    assert!(passing(0).2.starts_with("HTTP: "));
    assert!(passing(3).2.contains("another range"));
    server.join().unwrap();
    for url in ["ftp://host/x", "https://", "no address"] {
        assert!(!got(url, 0, 7).2.unwrap_err().is_passing(), "{url}");
    }
    assert!(
        got("http://127.0.0.1:1/x", 0, 7)
            .2
            .unwrap_err()
            .is_passing()
    );
}
