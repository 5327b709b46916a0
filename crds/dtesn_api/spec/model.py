"""`spec.model`: the Deep Tree Echo State Network that is served. A change needs a restart."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from dtesn_api.reading import Section
from dtesn_api.schema import Rule
from dtesn_api.spec.kinds import OPERATOR, FilePath, ObjectName

MEMBRANE_DEPTH = Meta(ge=1, le=16)
ESN_SIZE = Meta(ge=32, le=4096)

Scaling = Annotated[float, Meta(ge=0, le=1000)]


class ConfigMapKey(Section, frozen=True, kw_only=True):
    """A key of a ConfigMap in the resource's namespace."""

    name: Annotated[ObjectName, Meta(description="Name of the ConfigMap.")]
    key: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=253,
            pattern=r"^[-._a-zA-Z0-9]+\Z",
            extra={"expected": "a ConfigMap key: letters, digits, '-', '_' and '.', at most 253 characters"},
            description="Key in it whose (binary) value is the readout file.",
        ),
    ]


class ClaimPath(Section, frozen=True, kw_only=True):
    """A file on a PersistentVolumeClaim."""

    claim_name: Annotated[ObjectName, Meta(description="Name of the PersistentVolumeClaim; it is mounted read-only.")]
    path: Annotated[str, Meta(min_length=1, max_length=1024, description="Path of the readout file within the claim.")]


class ReadoutSource(Section, frozen=True, kw_only=True):
    """Where the fitted readout (safetensors) comes from: exactly one of the three."""

    config_map: Annotated[ConfigMapKey | None, Meta(extra=OPERATOR, description="From a ConfigMap, up to 1 MiB.")] = None
    persistent_volume_claim: Annotated[ClaimPath | None, Meta(extra=OPERATOR, description="From a file on a claim.")] = None
    path: Annotated[FilePath | None, Meta(description="From a file that the image or the pod template brings, by absolute path.")] = None

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="readout: exactly one source",
            fields=("path", "config_map", "persistent_volume_claim"),
            holds=lambda s: sum(v is not None for v in (s.path, s.config_map, s.persistent_volume_claim)) == 1,
            sentence="given, or else exactly one of {config_map} and {persistent_volume_claim}",
            cel="[has(self.path), has(self.configMap), has(self.persistentVolumeClaim)].filter(x, x).size() == 1",
        ),
    )


class ModelConfiguration(Section, frozen=True, kw_only=True):
    """Size, dynamics and bounds of the network; every weight follows from these and the seed alone."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=63,
            pattern=r"^[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?\Z",
            extra={"expected": "a name of 1 to 63 letters, digits, '-', '_' and '.', with a letter or digit first and last"},
            description="Name of the model in requests, answers and metrics.",
        ),
    ] = "dtesn"
    membrane_depth: Annotated[
        int, MEMBRANE_DEPTH, Meta(description="Reservoir layers (membranes); requests may ask for fewer or more.")
    ] = 4
    esn_size: Annotated[int, ESN_SIZE, Meta(description="Units per layer; requests may ask for another size.")] = 512
    seed: Annotated[int, Meta(ge=0, le=9_007_199_254_740_991, description="Seed of every weight, with layer and size.")] = 42
    spectral_radius: Annotated[
        float,
        Meta(
            ge=0,
            le=10,
            description="Norm and radius of the recurrent matrix. Trees of degree k keep the echo state property for k times this below 1; "
            "beyond that there is a warning.",
        ),
    ] = 0.9
    leak_rate: Annotated[float, Meta(gt=0, le=1, description="Share of the new state in each update; 1 keeps nothing of the old.")] = 0.3
    input_scaling: Annotated[Scaling, Meta(description="Bound of the uniform input weights of the first layer.")] = 1.0
    inter_scaling: Annotated[Scaling, Meta(description="Norm of the weights from one layer to the next.")] = 1.0
    bias: Annotated[Scaling, Meta(description="Bound of the uniform bias.")] = 0.1
    aggregation_exponent: Annotated[
        float, Meta(ge=0, le=2, description="Children are summed and divided by their number to this power: 0 is the sum, 1 the mean.")
    ] = 0.0
    order: Annotated[int, Meta(ge=1, le=4, description="Order of the integration: 1 Euler (the leaky update), 2 Heun, 3 Kutta, 4 RK4.")] = 1
    topology: Annotated[
        Literal["orthogonal", "sparse", "ring"],
        Meta(description="Recurrent matrix: a random orthogonal one, a sparse one with fan-in 10, or a permutation."),
    ] = "orthogonal"
    dtype: Annotated[Literal["float32", "float64"], Meta(description="Floating-point type of the computation.")] = "float32"
    max_nodes: Annotated[int, Meta(ge=1, le=16_777_216, description="Nodes per request; beyond it the answer is 413.")] = 4096
    max_model_bytes: Annotated[
        int,
        Meta(ge=1, le=1_099_511_627_776, description="Bytes of weights kept for sizes that requests ask for beside the configured one."),
    ] = 536_870_912
    readout: Annotated[ReadoutSource | None, Meta(description="A fitted readout; absent = features and summaries only.")] = None
