//! Files that the operator writes, and that are looked at again and again.
//!
//! Guarantees that a file which is larger than it may be is not read. Does not remember what
//! was read.

use std::io;
use std::path::Path;

/// A file's bytes, `most` of them.
pub async fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    if tokio::fs::metadata(path).await?.len() > most as u64 {
        let detail = format!("more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    tokio::fs::read(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_too_large_is_not_read() {
        let path = std::env::temp_dir().join(uuid::Uuid::now_v7().to_string());
        std::fs::write(&path, "twelve bytes").unwrap();
        assert_eq!(read(&path, 12).await.unwrap(), b"twelve bytes");
        let refused = read(&path, 11).await.unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(refused, "more than 11 bytes");
        assert_eq!(read(&path, 12).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
