//! Uploads in chunks, to registries that keep to the protocol and to others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use keg_store::Digest;

use super::*;
use crate::ImportRequest;
use crate::testing::{Answer, Asked, Fixture, TestRegistry, archive, gzip, noise, silent};

/// Bytes of a chunk where a registry does not want more.
const CHUNK_BYTES: u64 = 64 * 1024;

/// The uploads of a registry.
#[derive(Default)]
struct Uploads {
    /// What each upload has so far, by its path.
    open: HashMap<String, Vec<u8>>,
    /// Sizes of the chunks that came.
    chunks: Vec<usize>,
    /// What whole blobs were sent as.
    blobs: Vec<Vec<u8>>,
    /// How often it was asked how far an upload is.
    questions: usize,
    /// How many uploads were begun.
    begun: usize,
    /// How many blobs were to be taken from another repository.
    mounts: usize,
    has_cut: bool,
}

/// How a registry differs from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Not at all, but that it wants chunks of this size at least.
    Chunks(usize),
    /// It cuts the connection in the middle of the second chunk.
    Cuts,
    /// That, and it forgets what it had.
    CutsAndForgets,
    /// It knows no chunks.
    RefusesChunks,
    /// It does not tell what it has, and takes nothing from another repository.
    KnowsUploadsOnly,
}

impl Uploads {
    fn answer(&mut self, asked: &Asked, habit: Habit) -> Option<Answer> {
        const UPLOADS: &str = "/v2/app/blobs/uploads/";
        let path = asked.path.split('?').next()?;
        match (asked.method.as_str(), path) {
            ("HEAD", _) if habit == Habit::KnowsUploadsOnly => Some(Answer::new(405, b"")),
            ("POST", UPLOADS) if asked.path.contains("mount=") => {
                self.mounts += 1;
                Some(Answer::new(403, b""))
            }
            ("POST", UPLOADS) => {
                let upload = format!("{UPLOADS}{}", self.begun);
                self.begun += 1;
                self.open.insert(upload.clone(), Vec::new());
                let least = if let Habit::Chunks(least) = habit { least } else { 0 };
                let answer = Answer::new(202, b"").header("location", upload);
                Some(answer.header("oci-chunk-min-length", least.to_string()))
            }
            ("PUT", _) if !path.starts_with(UPLOADS) => Some(Answer::new(201, b"")),
            ("GET", "/v2/") => Some(Answer::new(200, b"{}")),
            _ if path.starts_with(UPLOADS) => self.go_on(asked, path, habit),
            _ => None,
        }
    }

    /// Answers what concerns an upload that was begun.
    fn go_on(&mut self, asked: &Asked, path: &str, habit: Habit) -> Option<Answer> {
        let bytes = self.open.get_mut(path)?;
        let told = |status, bytes: &[u8]| {
            let range = format!("0-{}", bytes.len().saturating_sub(1));
            let answer = Answer::new(status, b"").header("location", path);
            Some(answer.header("range", range))
        };
        match asked.method.as_str() {
            "PATCH" if habit == Habit::RefusesChunks => Some(Answer::new(405, b"")),
            "PATCH" => {
                let range = asked.headers.get("content-range")?;
                let start: usize = range.split('-').next()?.parse().ok()?;
                if start != bytes.len() {
                    return Some(Answer::new(416, b""));
                }
                let cuts = matches!(habit, Habit::Cuts | Habit::CutsAndForgets);
                if cuts && start > 0 && !self.has_cut {
                    self.has_cut = true;
                    bytes.extend_from_slice(&asked.body[..asked.body.len() / 2]);
                    return Some(Answer::new(0, b""));
                }
                self.chunks.push(asked.body.len());
                bytes.extend_from_slice(&asked.body);
                told(202, bytes)
            }
            "GET" => {
                self.questions += 1;
                if habit == Habit::CutsAndForgets { None } else { told(204, bytes) }
            }
            "PUT" => {
                bytes.extend_from_slice(&asked.body);
                self.blobs.push(std::mem::take(bytes));
                Some(Answer::new(201, b""))
            }
            _ => None,
        }
    }
}

/// Pushes an image with a layer of some 300 KB; returns the layer, and what the registry got.
async fn push_to(habit: Habit) -> (Vec<u8>, Uploads) {
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let registry = {
        let uploads = Arc::clone(&uploads);
        TestRegistry::meddling(move |asked, _| uploads.lock().unwrap().answer(asked, habit)).await
    };
    let reference: Reference = format!("{}/app:1", registry.address).parse().unwrap();
    let layer = gzip(&archive(&[("a", &noise(400_000))]));
    let fixture = Fixture::chunking(CHUNK_BYTES);
    let request = ImportRequest { reference: Some(reference.clone()), ..ImportRequest::default() };
    let pieces = [Ok(Bytes::from(layer.clone()))];
    fixture.images.import(request, stream::iter(pieces)).await.unwrap();
    if habit == Habit::KnowsUploadsOnly {
        let elsewhere = reference.domain().to_owned() + "/base:1";
        fixture.images.note_repository(&blob(&layer), &elsewhere.parse().unwrap()).await;
    }
    let request = PushRequest { reference, platform: None, referrers: false, credentials: None };

    fixture.images.push(request, silent()).await.unwrap();

    drop(fixture);
    let uploads = std::mem::take(&mut *uploads.lock().unwrap());
    (layer, uploads)
}

fn blob(layer: &[u8]) -> Descriptor {
    let (media_type, size_bytes) = (String::new(), layer.len() as u64);
    Descriptor { media_type, digest: Digest::sha256(layer), size_bytes }
}

fn has(uploads: &Uploads, layer: &[u8]) -> bool {
    let wanted = Digest::sha256(layer);
    uploads.blobs.iter().any(|blob| Digest::sha256(blob) == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_goes_in_chunks_that_are_large_enough_for_the_registry() {
    let (layer, uploads) = push_to(Habit::Chunks(100_000)).await;

    assert!(has(&uploads, &layer));
    assert_eq!(uploads.chunks.len(), layer.len().div_ceil(100_000));
    let (last, others) = uploads.chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| *chunk == 100_000), "{others:?}");
    assert!(*last <= 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_goes_on_where_the_registry_has_it() {
    let (layer, uploads) = push_to(Habit::Cuts).await;

    assert!(has(&uploads, &layer));
    assert_eq!(uploads.questions, 1);
    // What the cut left of a chunk was not sent again.
    let sent: usize = uploads.chunks.iter().sum();
    assert_eq!(sent, layer.len() - usize::try_from(CHUNK_BYTES).unwrap() / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_the_registry_forgot_begins_again() {
    let (layer, uploads) = push_to(Habit::CutsAndForgets).await;

    assert!(has(&uploads, &layer));
    assert_eq!(uploads.questions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_no_chunks_gets_one_piece() {
    let (layer, uploads) = push_to(Habit::RefusesChunks).await;

    assert!(has(&uploads, &layer));
    assert_eq!(uploads.chunks, [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_answers_no_question_and_mounts_nothing_gets_all() {
    let (layer, uploads) = push_to(Habit::KnowsUploadsOnly).await;

    assert!(has(&uploads, &layer));
    assert_eq!(uploads.mounts, 1);
}
