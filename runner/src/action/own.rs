//! The checkout at hand as the workflow's own repository (`$/path`), before another source of actions.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use crate::checkout::Checkout;

use super::{
    bytes::{ActionBytes, ActionSource, Preparing, SourceError},
    enforce::ImageRefused,
    reference::RepositoryReference,
};

/// A source that knows the checkout too.
#[derive(Debug)]
pub struct WithCheckout {
    checkout: Arc<Checkout>,
    others: Arc<dyn ActionSource>,
}

impl WithCheckout {
    /// The checkout, and where actions of other repositories are.
    pub fn new(checkout: Arc<Checkout>, others: Arc<dyn ActionSource>) -> Self {
        Self { checkout, others }
    }
}

impl ActionSource for WithCheckout {
    fn find(&self, reference: &RepositoryReference) -> Result<Arc<dyn ActionBytes>, SourceError> {
        self.others.find(reference)
    }

    fn prepare<'a>(&'a self, references: &'a [RepositoryReference]) -> Preparing<'a> {
        self.others.prepare(references)
    }

    fn image(&self, image: &str) -> Result<String, ImageRefused> {
        self.others.image(image)
    }

    fn refuses_unpinned(&self) -> bool {
        self.others.refuses_unpinned()
    }

    fn own(&self) -> Option<Arc<dyn ActionBytes>> {
        let checkout: Arc<dyn ActionBytes> = Arc::<Checkout>::clone(&self.checkout);
        Some(checkout)
    }
}

impl ActionBytes for Checkout {
    fn origin(&self) -> String {
        self.root().display().to_string()
    }

    fn read(&self, path: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        Checkout::read(self, Path::new(path), limit)
    }

    fn write_tar(&self, sink: &mut dyn Write) -> io::Result<()> {
        Checkout::write_tar(self, sink).map_err(io::Error::other)
    }
}
