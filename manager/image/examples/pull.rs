//! Pulls an image into a store of its own and says how long it took: `pull ROOT REFERENCE`.

use std::sync::Arc;
use std::time::Instant;

use keg_image::{Images, ImagesOptions, PullRequest};
use keg_store::{Explain, Namespace, OverlaySnapshotter, Store};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, reference] = arguments.as_slice() else {
        return Err("usage: pull ROOT REFERENCE".into());
    };
    let store = Store::open(root)?;
    let snapshotter = Arc::new(OverlaySnapshotter::new(&store)?);
    let images = Images::new(store, snapshotter, Namespace::default(), ImagesOptions::default());
    let request = PullRequest::new(reference.parse()?, None);
    let begin = Instant::now();
    match images.pull(request, Arc::new(|_| {})).await {
        Ok(pulled) => {
            println!(
                "{} {:?} {:.3} s",
                pulled.image.id,
                pulled.image.names,
                begin.elapsed().as_secs_f64()
            );
            Ok(())
        }
        Err(error) => {
            eprintln!("{} ({:?})", error.remedy().unwrap_or_default(), error.reason());
            Err(error.into())
        }
    }
}
