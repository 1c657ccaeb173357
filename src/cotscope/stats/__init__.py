"""The statistics of an effect: pure functions, seeded where they draw. Checked against scipy and statsmodels in tests.
scipy is imported where it is used: the command line waits for nothing.

Proportions are 0…1. Every interval is two-sided at 95 % unless `level` says otherwise.
"""

from .agreement import cohen_kappa as cohen_kappa
from .agreement import expected_jaccard as expected_jaccard
from .agreement import jaccard as jaccard
from .discrimination import Area as Area
from .discrimination import auroc as auroc
from .discrimination import auroc_difference as auroc_difference
from .intervals import LEVEL as LEVEL
from .intervals import RESAMPLES as RESAMPLES
from .intervals import clustered_error as clustered_error
from .intervals import clustered_proportions as clustered_proportions
from .intervals import clustered_ratio as clustered_ratio
from .intervals import clustered_share as clustered_share
from .intervals import equivalence as equivalence
from .intervals import groups_difference as groups_difference
from .intervals import least_p_of_signs as least_p_of_signs
from .intervals import paired_bootstrap as paired_bootstrap
from .intervals import paired_proportions as paired_proportions
from .intervals import paired_shares as paired_shares
from .intervals import series_mean as series_mean
from .intervals import share_of_gain as share_of_gain
from .intervals import wilson as wilson
from .ranks import partial_spearman as partial_spearman
from .ranks import rank_correlation as rank_correlation
from .ranks import spearman as spearman
from .ranks import within_rank_correlation as within_rank_correlation
from .ranks import within_spearman as within_spearman
from .significance import clustered_p as clustered_p
from .significance import detectable_difference as detectable_difference
from .significance import diagonal_contrast as diagonal_contrast
from .significance import holm as holm
from .significance import mcnemar_exact as mcnemar_exact
from .significance import permutation_p as permutation_p
from .significance import problems_needed as problems_needed
from .significance import sign_flip_p as sign_flip_p
from .significance import unlike_p as unlike_p
from .specific import ANSWERS as ANSWERS
from .specific import ARITHMETIC as ARITHMETIC
from .specific import LEAST_EFFECT as LEAST_EFFECT
from .specific import LEAST_MARGIN as LEAST_MARGIN
from .specific import LEAST_PERMUTED as LEAST_PERMUTED
from .specific import MATTERS as MATTERS
from .specific import NOT_SHOWN as NOT_SHOWN
from .specific import PUSH as PUSH
from .specific import SPECIFIC_RULE as SPECIFIC_RULE
from .specific import TOO_FEW as TOO_FEW
from .specific import UNSPLIT as UNSPLIT
from .specific import VERDICTS as VERDICTS
from .specific import ByKind as ByKind
from .specific import Claim as Claim
from .specific import Scored as Scored
from .specific import SpecificDamage as SpecificDamage
from .specific import beyond_controls as beyond_controls
from .specific import in_words as in_words
from .specific import specific_change as specific_change
from .specific import specific_damage as specific_damage
