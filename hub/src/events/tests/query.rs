//! Reading what was taken.

use super::*;

#[tokio::test]
async fn traces_come_newest_first() {
    for fixture in Fixture::each().await {
        fixture.send(1, 1, &[trace(1), trace(3), trace(2)]).await.unwrap();

        let ids: Vec<_> = fixture.traces(&all(10)).await.iter().map(|row| row.id).collect();

        assert_eq!(ids, [id(3), id(2), id(1)]);
    }
}
