//! Changes of a key by what it holds.

use bytes::Bytes;

use super::{Step, Stop, UnderWay, meta_after, own};
use crate::outcome::{Detail, OpResult, Outcome, Pairs};
use crate::patch::{Edit, Edited, Patch};
use crate::record::Record;
use crate::shard::{ShardError, ShardHeader};

impl Step {
    /// Changes a key by what it holds, if that can be done. Costs the write what was there and what is added, so that it
    /// neither takes long nor says more than a write may.
    pub(super) fn patch(&mut self, patch: &Patch, under_way: &mut UnderWay, header: &mut ShardHeader) -> Result<OpResult, Stop> {
        let Patch { key, edit, ttl_ms, max_value_bytes, is_told } = patch;
        let (before, replaced) = self.found(key)?.unzip();
        under_way.budget.take_bytes(key.len() + replaced.as_ref().map_or(0, Bytes::len) + edit.bytes())?;
        let record = replaced.clone().map(Record::decode).transpose().map_err(ShardError::from)?;
        let limits = under_way.settings.limits;
        let max_bytes = match limits.max_value_bytes {
            0 => *max_value_bytes,
            limit => limit.min(*max_value_bytes),
        };
        let edited = edit.apply(record.as_ref().map(|record| &record.value), max_bytes);
        let value = match edited {
            Ok(Some(Edited::Value(value))) => value,
            Ok(Some(Edited::TooLarge)) => return Err(Stop::Refused(Outcome::ValueTooLarge { max_bytes })),
            Ok(None) => return Ok(OpResult::default()),
            Err(why) => return Err(Stop::Refused(Outcome::Unfit { key: Bytes::copy_from_slice(key), why })),
        };
        if let Some(refused) = limits.refusal(key, &value) {
            return Err(Stop::Refused(refused));
        }
        let meta = meta_after(before, under_way.revision);
        let has_lease = record.as_ref().is_some_and(|record| record.lease.is_some());
        let expires_at_ms = self.lifetime.end(*ttl_ms, has_lease, header);
        let record = match record {
            Some(record) if *edit == Edit::Touch => Record { meta, expires_at_ms, ..record },
            Some(record) => Record { meta, value, ..record },
            None => {
                let content_type = edit.content_type();
                Record { meta, content_type, user_meta: Vec::new(), expires_at_ms, lease: None, value }
            }
        };
        let result = self.set_record(key, &record, before, replaced, header)?;
        let told = || Detail::Read(Pairs { items: vec![(Bytes::copy_from_slice(key), own(record))], has_more: false });
        Ok(OpResult { detail: is_told.then(|| Box::new(told())), ..result })
    }
}
