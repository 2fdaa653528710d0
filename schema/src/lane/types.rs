//! From events to types, as serde_yaml does it.
use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::BorrowedStrDeserializer},
    forward_to_deserialize_any,
};

use super::events::Event;

pub(super) struct Reader<'e, 'a> {
    events: &'e [Event<'a>],
    next: usize,
}

/// Why does not matter: serde_yaml will say.
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not plain")
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'e, 'a> Reader<'e, 'a> {
    pub fn new(events: &'e [Event<'a>]) -> Self {
        Self { events, next: 0 }
    }

    pub fn is_at_end(&self) -> bool {
        self.next == self.events.len()
    }

    fn peek(&self) -> Result<Event<'a>, Refused> {
        self.events.get(self.next).copied().ok_or(Refused)
    }

    fn take(&mut self) -> Result<Event<'a>, Refused> {
        let event = self.peek()?;
        self.next += 1;
        Ok(event)
    }

    fn scalar(&mut self) -> Result<&'a str, Refused> {
        match self.take()? {
            Event::Scalar { text, .. } => Ok(text),
            _ => Err(Refused),
        }
    }

    fn plain(&mut self) -> Result<&'a str, Refused> {
        match self.take()? {
            Event::Scalar { text, plain: true } => Ok(text),
            _ => Err(Refused),
        }
    }

    fn number<'de, V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Refused> {
        let text = self.plain()?;
        let decimal = text == "0" || !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = decimal.then(|| text.parse::<u64>().ok()).flatten();
        visitor.visit_u64(number.ok_or(Refused)?)
    }

    fn skip(&mut self) -> Result<(), Refused> {
        let mut open = 0usize;
        loop {
            match self.take()? {
                Event::Scalar { .. } => {}
                Event::Mapping | Event::Sequence => open += 1,
                Event::End => open = open.checked_sub(1).ok_or(Refused)?,
            }
            if open == 0 {
                return Ok(());
            }
        }
    }
}

impl<'a> Deserializer<'a> for &mut Reader<'_, 'a> {
    type Error = Refused;

    // What a value is must not depend on how it looks: no guessing here.
    fn deserialize_any<V: Visitor<'a>>(self, _: V) -> Result<V::Value, Refused> {
        Err(Refused)
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        match self.plain()? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(Refused),
        }
    }

    fn deserialize_u8<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.number(visitor)
    }

    fn deserialize_u16<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.number(visitor)
    }

    fn deserialize_u64<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.number(visitor)
    }

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_borrowed_str(self.scalar()?)
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_str(visitor)
    }

    /// There is no null on this lane.
    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Event::Sequence = self.take()? else { return Err(Refused) };
        let value = visitor.visit_seq(Entries(self))?;
        let Event::End = self.take()? else { return Err(Refused) };
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        let Event::Mapping = self.take()? else { return Err(Refused) };
        let value = visitor.visit_map(Entries(self))?;
        let Event::End = self.take()? else { return Err(Refused) };
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let word: BorrowedStrDeserializer<'a, Refused> = BorrowedStrDeserializer::new(self.scalar()?);
        visitor.visit_enum(word)
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        <W: Visitor<'a>>
        i8 i16 i32 i64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
    }
}

struct Entries<'r, 'e, 'a>(&'r mut Reader<'e, 'a>);

impl<'a> SeqAccess<'a> for Entries<'_, '_, 'a> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        match self.0.peek()? {
            Event::End => Ok(None),
            _ => seed.deserialize(&mut *self.0).map(Some),
        }
    }
}

impl<'a> MapAccess<'a> for Entries<'_, '_, 'a> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        match self.0.peek()? {
            Event::End => Ok(None),
            _ => seed.deserialize(&mut *self.0).map(Some),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        seed.deserialize(&mut *self.0)
    }
}
