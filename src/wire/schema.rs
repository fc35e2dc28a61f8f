//! Schemas of the API's description, derived from the types.
//!
//! Guarantees one schema a name: JSON Schema 2020-12 as OpenAPI 3.1 takes it. What a body may
//! leave out is not required; what an answer may leave out is never null there.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value};

/// Where the description has its schemas.
const PLACE: &str = "/components/schemas";

/// A type, as far as its schema goes.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

/// The shape of a type.
pub const fn shape<T: JsonSchema>() -> Shape {
    SchemaGenerator::subschema_for::<T>
}

/// The schemas that were asked for, each with all that it refers to.
pub struct Shapes {
    answered: SchemaGenerator,
    asked: SchemaGenerator,
}

impl Default for Shapes {
    fn default() -> Shapes {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = PLACE.into();
            settings.meta_schema = None;
        });
        Shapes {
            answered: settings.clone().for_serialize().into_generator(),
            asked: settings.for_deserialize().into_generator(),
        }
    }
}

impl Shapes {
    /// The schema of what is answered.
    pub fn answered(&mut self, shape: Shape) -> Value {
        shape(&mut self.answered).to_value()
    }

    /// The schema of what is asked for.
    pub fn asked(&mut self, shape: Shape) -> Value {
        shape(&mut self.asked).to_value()
    }

    /// Everything that was referred to, by name.
    pub fn by_name(mut self) -> Map<String, Value> {
        let mut schemas = self.answered.take_definitions(true);
        schemas.values_mut().for_each(without_null);
        for (name, schema) in self.asked.take_definitions(true) {
            schemas.entry(name).or_insert(schema);
        }
        schemas
    }
}

/// What an answer may leave out it does not write as null.
fn without_null(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (key, property) in properties {
            if !required.contains(&Value::from(key.as_str())) {
                take_null_from(property);
            }
        }
    }
    for parts in ["anyOf", "allOf"] {
        let parts = schema.get_mut(parts).and_then(Value::as_array_mut);
        parts.into_iter().flatten().for_each(without_null);
    }
}

fn take_null_from(schema: &mut Value) {
    let null = Value::from("null");
    if let Some(types) = schema.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|name| *name != null);
    }
    if let Some(types) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        types.retain(|of| of.get("type") != Some(&null));
    }
}
