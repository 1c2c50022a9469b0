//! The arguments of the commands about the files of models.
//!
//! Owns: their form. Must not: fetch or believe a file. Pure.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use quorate_core::command::{Deed, ModelDeed, Parcel, Refused};
use quorate_models::package::PACKAGE_BYTES_MAX;
use serde_json::{Map, Value};

/// Longest address.
const URL_BYTES_MAX: usize = 2_048;

/// What a command `model-...` with these arguments asks for.
pub(super) fn deed(command: &str, arguments: &Map<String, Value>) -> Result<Deed, Refused> {
    let known: &[&str] = match command {
        "model-stage" => &["model", "url", "sha256", "bytes", "allow_downgrade"],
        "model-chunk" => &[
            "model",
            "sha256",
            "bytes",
            "offset",
            "data",
            "allow_downgrade",
        ],
        "model-promote" => &["model", "force"],
        "model-rollback" => &["model"],
        _ => return Err(Refused::UnknownCommand),
    };
    if arguments.keys().any(|key| !known.contains(&key.as_str())) {
        return Err(Refused::Arguments);
    }
    read(command, arguments)
        .map(Deed::Model)
        .ok_or(Refused::Arguments)
}

fn read(command: &str, arguments: &Map<String, Value>) -> Option<ModelDeed> {
    let model = match arguments.get("model") {
        None => None,
        Some(model) => Some(model.as_str()?.to_owned()),
    };
    let flag = |key: &str| match arguments.get(key) {
        None => Some(false),
        Some(flag) => flag.as_bool(),
    };
    Some(match command {
        "model-promote" => ModelDeed::Promote {
            model,
            force: flag("force")?,
        },
        "model-rollback" => ModelDeed::Rollback { model },
        _ => {
            let mut parcel = Parcel {
                model,
                sha256: sha256(arguments)?,
                bytes: number(arguments, "bytes")
                    .filter(|it| (1..=PACKAGE_BYTES_MAX).contains(it))?,
                url: None,
                piece: None,
                allow_downgrade: flag("allow_downgrade")?,
            };
            if command == "model-stage" {
                parcel.url = Some(url(arguments)?);
                ModelDeed::Stage(parcel)
            } else {
                let offset = number(arguments, "offset").filter(|it| *it < parcel.bytes)?;
                let data = STANDARD.decode(arguments.get("data")?.as_str()?).ok()?;
                parcel.piece = Some((offset, data));
                ModelDeed::Chunk(parcel)
            }
        }
    })
}

fn number(arguments: &Map<String, Value>, key: &str) -> Option<u64> {
    arguments.get(key)?.as_u64()
}

fn sha256(arguments: &Map<String, Value>) -> Option<String> {
    let text = arguments.get("sha256")?.as_str()?;
    let hexadecimal = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hexadecimal.then(|| text.to_ascii_lowercase())
}

fn url(arguments: &Map<String, Value>) -> Option<String> {
    let url = arguments.get("url")?.as_str()?;
    let scheme = url.starts_with("https://") || url.starts_with("http://");
    let plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    (scheme && plain && url.len() <= URL_BYTES_MAX).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

    use serde_json::json;

    use super::*;

    fn given(command: &str, arguments: &Value) -> Result<ModelDeed, Refused> {
        match deed(command, arguments.as_object().unwrap())? {
            Deed::Model(deed) => Ok(deed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_taken_or_refused() {
        let digest = "Ab".repeat(32);
        let stage = |url: &str, bytes: u64| {
            given(
                "model-stage",
                &json!({"url": url, "sha256": digest, "bytes": bytes, "model": "m"}),
            )
        };
        let taken = stage("https://host/a", 7).unwrap();
        assert_eq!(taken.model(), Some("m"));
        let ModelDeed::Stage(parcel) = taken else {
            panic!("{taken:?}");
        };
        assert_eq!((parcel.bytes, &*parcel.sha256), (7, &*"ab".repeat(32)));
        for (url, bytes) in [
            ("ftp://host/a", 7),
            ("https://host/\u{e4}", 7),
            ("https://host/a b", 7),
            ("https://host/a", 0),
            ("https://host/a", PACKAGE_BYTES_MAX + 1),
        ] {
            assert_eq!(stage(url, bytes), Err(Refused::Arguments), "{url} {bytes}");
        }
        let chunk = |offset: u64, data: &str| {
            given(
                "model-chunk",
                &json!({"sha256": digest, "bytes": 7, "offset": offset, "data": data}),
            )
        };
        let ModelDeed::Chunk(parcel) = chunk(6, "AQ==").unwrap() else {
            panic!("no chunk");
        };
        assert_eq!(parcel.piece, Some((6, vec![1])));
        assert_eq!(chunk(7, "AQ=="), Err(Refused::Arguments));
        assert_eq!(chunk(0, "?"), Err(Refused::Arguments));
        let force = given("model-promote", &json!({"force": true})).unwrap();
        assert_eq!(force.permission(), Some("model-force"));
        let back = given("model-rollback", &json!({})).unwrap();
        assert_eq!((back.model(), back.permission()), (None, None));
        let unknown = given("model-rollback", &json!({"force": true}));
        assert_eq!(unknown, Err(Refused::Arguments));
        assert_eq!(given("model-x", &json!({})), Err(Refused::UnknownCommand));
    }
}
