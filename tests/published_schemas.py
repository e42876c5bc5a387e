"""Validates manifests strictly against the schemas that the systems publish."""

import functools
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML


def documents(text: str) -> list[dict[str, Any]]:
    """Returns the documents of a manifest."""
    return list(YAML(typ="safe", pure=True).load_all(text))


def strict(schema: Any) -> Any:
    """Returns the schema without keys that it does not list; Kubernetes' marks for free-form tables are kept."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict_schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        strict_schema["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            strict_schema["additionalProperties"] = False
    return strict_schema


@functools.cache
def kuberay(kind: str) -> Draft202012Validator:
    """Returns a validator of the `spec` of one kind; the tests check `apiVersion`, `kind` and `metadata` themselves."""
    if "PRUNEYARD_DATA" not in os.environ:
        pytest.skip("PRUNEYARD_DATA is not set")
    for path in sorted((Path(os.environ["PRUNEYARD_DATA"]) / "kuberay").glob("*.yaml")):
        resource = yaml.load(
            path.read_text(encoding="utf-8"), yaml.CSafeLoader
        )  # 1 MB: the pure reader takes half a minute
        if resource["spec"]["names"]["kind"] == kind:
            (stored_version,) = [version for version in resource["spec"]["versions"] if version["storage"]]
            schema = stored_version["schema"]["openAPIV3Schema"]["properties"]["spec"]
            return Draft202012Validator(strict(schema))
    raise AssertionError(f"no definition of {kind}")


def ray_up() -> Draft202012Validator:
    """Returns a validator of the whole file, from the schema that ships with Ray."""
    schema = json.loads(files(ray.autoscaler).joinpath("ray-schema.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema)


def faults(validator: Draft202012Validator, content: Any) -> list[str]:
    """Returns where the content violates the schema, and why."""
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


def check_kuberay(text: str) -> None:
    """Checks that the one resource of KubeRay among the documents fits its schema."""
    (resource,) = [document for document in documents(text) if document["apiVersion"] == "ray.io/v1"]
    assert faults(kuberay(resource["kind"]), resource["spec"]) == []


def check_ray_up(text: str) -> None:
    """Checks that the file fits the schema and that Ray's own reader accepts it."""
    (config,) = documents(text)
    assert faults(ray_up(), config) == []
    validate_config(prepare_config(config))
