//! Our style and script: within the binary, named after what is in them, kept by browsers for ever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use sha2::{Digest, Sha256};

/// A file that pages refer to.
struct Asset {
    name: String,
    kind: &'static str,
    body: &'static str,
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new("hub", "css", "text/css; charset=utf-8", include_str!("../../assets/hub.css")),
        Asset::new(
            "hub",
            "js",
            "text/javascript; charset=utf-8",
            include_str!("../../assets/hub.js"),
        ),
        Asset::new("mark", "svg", "image/svg+xml", include_str!("../../assets/mark.svg")),
    ]
});

impl Asset {
    fn new(stem: &str, ending: &str, kind: &'static str, body: &'static str) -> Self {
        let hash = Sha256::digest(body.as_bytes());
        let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { name: format!("{stem}.{hash}.{ending}"), kind, body }
    }
}

/// The path of an asset by its name without the hash, such as `hub.css`.
pub(super) fn path(name: &str) -> String {
    let (stem, ending) = name.split_once('.').unwrap_or((name, ""));
    let asset = ASSETS.iter().find(|asset| {
        asset.name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.'))
            && asset.name.rsplit('.').next() == Some(ending)
    });
    format!("/assets/{}", asset.map_or(name, |asset| &asset.name))
}

/// Returns an asset.
pub(super) async fn asset(Path(name): Path<String>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, asset.body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_asset_is_found_by_its_path_and_kept() {
        for name in ["hub.css", "hub.js", "mark.svg"] {
            let path = path(name);
            let hashed = path.strip_prefix("/assets/").unwrap().to_owned();
            assert_ne!(hashed, name);

            let response = asset(Path(hashed)).await;

            assert_eq!(response.status(), StatusCode::OK);
            assert!(
                response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable")
            );
        }
        assert_eq!(asset(Path("hub.css".to_owned())).await.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_script_is_small() {
        assert!(include_str!("../../assets/hub.js").len() < 14 * 1024);
    }
}
