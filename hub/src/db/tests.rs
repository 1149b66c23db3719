//! What both databases do alike. Each test runs on both.

use super::testing::TestDatabase;
use super::{Database, DbError, Row, Table, Type, values};

const TEAMS: &str = "SELECT name FROM teams ORDER BY name";

async fn organization(database: &dyn Database) {
    let sql = "INSERT INTO organizations (id, name, slug, created_ms) VALUES ($1, $2, $3, $4)";
    database.execute(sql, &values![1_i64, "Acme", "acme", 7_i64]).await.unwrap();
}

fn names(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.get(0).unwrap()).collect()
}

#[tokio::test]
async fn values_come_back_as_they_went() {
    for test in TestDatabase::each().await {
        let database = &*test.database;
        organization(database).await;
        let sql =
            "INSERT INTO users (id, email, name, created_ms, seen_ms) VALUES ($1, $2, $3, $4, $5)";
        let parameters = values![i64::MIN, "ä@b", "\u{1f980} '; --", i64::MAX, None::<i64>];
        database.execute(sql, &parameters).await.unwrap();

        let row = database.row("SELECT id, email, name, created_ms, seen_ms FROM users", &[]).await;

        let row = row.unwrap().unwrap();
        assert_eq!(row.get::<i64>(0).unwrap(), i64::MIN);
        assert_eq!(row.get::<String>(1).unwrap(), "ä@b");
        assert_eq!(row.get::<String>(2).unwrap(), "\u{1f980} '; --");
        assert_eq!(row.get::<i64>(3).unwrap(), i64::MAX);
        assert_eq!(row.get::<Option<i64>>(4).unwrap(), None);
        assert!(matches!(row.get::<i64>(4), Err(DbError::Column { column: 4 })));
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_did_nothing() {
    for test in TestDatabase::each().await {
        let database = &*test.database;
        organization(database).await;
        let sql = "INSERT INTO teams (id, organization, name, created_ms) VALUES ($1, 1, $2, 0)";

        let mut dropped = database.begin().await.unwrap();
        dropped.execute(sql, &values![1_i64, "dropped"]).await.unwrap();
        drop(dropped);
        let mut kept = database.begin().await.unwrap();
        kept.execute(sql, &values![2_i64, "kept"]).await.unwrap();
        assert_eq!(names(&kept.rows(TEAMS, &[]).await.unwrap()), ["kept"]);
        assert!(database.rows(TEAMS, &[]).await.unwrap().is_empty());
        kept.commit().await.unwrap();

        assert_eq!(names(&database.rows(TEAMS, &[]).await.unwrap()), ["kept"]);
    }
}

#[tokio::test]
async fn many_rows_are_inserted_once() {
    let table = Table {
        name: "teams",
        columns: &[
            ("id", Type::Int),
            ("organization", Type::Int),
            ("name", Type::Text),
            ("created_ms", Type::Int),
        ],
        conflict: "ON CONFLICT DO NOTHING",
    };
    for test in TestDatabase::each().await {
        let database = &*test.database;
        organization(database).await;
        let rows = |from: i64| {
            (from..from + 1000)
                .map(|id| values![id, 1_i64, format!("{id:04}"), 0_i64].into())
                .collect()
        };

        let mut transaction = database.begin().await.unwrap();
        assert_eq!(transaction.insert(&table, rows(0)).await.unwrap(), 1000);
        assert_eq!(transaction.insert(&table, rows(500)).await.unwrap(), 500);
        transaction.commit().await.unwrap();

        assert_eq!(database.rows(TEAMS, &[]).await.unwrap().len(), 1500);
    }
}

#[tokio::test]
async fn rows_that_are_there_already_are_told_from_new_ones() {
    let table = Table {
        name: "teams",
        columns: &[
            ("id", Type::Int),
            ("organization", Type::Int),
            ("name", Type::Text),
            ("created_ms", Type::Int),
        ],
        conflict: "ON CONFLICT DO NOTHING",
    };
    for test in TestDatabase::each().await {
        organization(&*test.database).await;
        let rows = |ids: &[i64]| {
            ids.iter().map(|id| values![*id, 1_i64, format!("{id}"), 0_i64].into()).collect()
        };
        let mut transaction = test.database.begin().await.unwrap();

        let first = transaction.insert_new(&table, &[0], rows(&[1, 2])).await.unwrap();
        let second = transaction.insert_new(&table, &[0], rows(&[3, 1, 4, 4])).await.unwrap();

        assert_eq!(first, [true, true]);
        assert_eq!(second, [true, false, true, false]);
    }
}

#[tokio::test]
async fn what_is_there_already_is_said() {
    for test in TestDatabase::each().await {
        organization(&*test.database).await;
        let sql =
            "INSERT INTO organizations (id, name, slug, created_ms) VALUES (2, 'B', 'acme', 0)";

        let error = test.database.execute(sql, &[]).await.unwrap_err();

        assert!(matches!(error, DbError::Exists), "{error:?}");
    }
}

#[tokio::test]
async fn text_may_have_any_character() {
    for test in TestDatabase::each().await {
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2)";
        test.database.execute(sql, &values!["x", "a\0b"]).await.unwrap();

        let row = test.database.row("SELECT value FROM settings", &[]).await.unwrap().unwrap();

        assert!(["a\0b", "a\u{fffd}b"].contains(&row.get::<String>(0).unwrap().as_str()));
    }
}

/// Whoever hangs up in the middle leaves nothing behind: no transaction that goes on, and no connection that
/// is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn askers_that_go_away_leave_nothing_behind() {
    for test in TestDatabase::each().await {
        let database = &test.database;
        organization(&**database).await;
        let sql = "INSERT INTO teams (id, organization, name, created_ms) VALUES ($1, 1, $2, 0)";
        for round in 0..200_u64 {
            let time = std::time::Duration::from_micros(round * 13 % 700);
            let begun = async {
                let mut transaction = database.begin().await.unwrap();
                let row = values![round as i64, format!("dropped {round}")];
                transaction.execute(sql, &row).await.unwrap();
                std::future::pending::<()>().await;
            };
            let read = async { database.rows(TEAMS, &[]).await };
            let _ = tokio::time::timeout(time, begun).await;
            let _ = tokio::time::timeout(time / 2, read).await;
        }

        // More at the same time than there are connections.
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..40_i64 {
            let database = std::sync::Arc::clone(database);
            tasks.spawn(async move {
                let row = values![1000 + number, format!("kept {number:02}")];
                database.execute(sql, &row).await.unwrap();
                database.rows(TEAMS, &[]).await.unwrap().len()
            });
        }
        while let Some(seen) = tasks.join_next().await {
            assert!(seen.unwrap() <= 40);
        }
        let teams = names(&database.rows(TEAMS, &[]).await.unwrap());
        let expected: Vec<_> = (0..40).map(|number| format!("kept {number:02}")).collect();
        assert_eq!(teams, expected);
    }
}
