"""Every text of the dashboard. Names and reasons from ledgers are not texts: they are data."""

TITLE = "Privacy budgets"
PAGE_TITLE = "Tacit: privacy budgets"

STATUS = {
    "healthy": "✓ healthy",
    "at risk": "▲ at risk",
    "no data": "? no data",
    "exhausted": "■ exhausted",
    "breached": "✕ breached",
}

PROTECTION = {
    "dp": "differential privacy",
    "masked": "masked",
    "encrypted": "encrypted",
    "public": "public",
    "unprotected": "▲ unprotected",
}

APPROVAL = {
    "pending": "? nobody has answered",
    "given": "✓ approved",
    "refused": "✕ refused",
    "expired": "▲ approval expired",
    "elsewhere": "? waits at the silo",
}

HEADLINE = {
    "healthy": "All budgets hold, and every ledger verifies.",
    "at risk": "Every budget holds, but at least one is nearly used up.",
    "no data": "Some of this cannot be relied on: a ledger is unverified or cannot be read.",
    "exhausted": "At least one budget is used up. It admits no further job.",
    "breached": "At least one account is breached and closed. Its claim no longer holds.",
}

AS_OF = "Federation {name}, as of {at} UTC"
MOST_USED = "Most used budget"
MOST_USED_HELP = "The largest share of an account that is gone, reservations included."
JOBS_LEFT = "Jobs that still fit"
JOBS_LEFT_HELP = "On the tightest account: further jobs that cost what its last one cost."
VERIFIED = "Ledgers verified"
VERIFIED_HELP = "Every entry, balance and signature recomputed from the first entry on."
UNPROTECTED = "Unprotected releases"
UNPROTECTED_HELP = "Results that left a silo without privacy protection. No budget covers them."

OUTSIDE = (
    "**▲ unprotected.** Releases without protection: {number}. No budget covers what they tell."
)
BARS = "How much of each budget is used"
AT_RISK_FROM = "Reservations included. Dotted line: at risk from {share:.0%} on."
CHAINS = "Do the ledgers verify?"
CHECKED = "Recomputed from the first entry on, at {at} UTC."
CHECKING = "A new check is under way."
RECHECK = "Verify again"
MIRROR_TROUBLE = "The coordinator's mirror does not hold, so nobody vouches for any ledger:"
ON_THIS_MACHINE = (
    "Vouched to: the last entry whose hash the coordinator also holds. Its mirror is under this "
    "home as well; only a copy kept elsewhere protects against the owner of this machine."
)
NOBODY_VOUCHES = (
    "There is no coordinator's mirror under this home: the chains are checked in themselves, and "
    "nobody else vouches for them here."
)

ACCOUNTS = "Accounts"
ACCOUNTS_NOTE = (
    "Epsilon (ε) says how much one unit's data can change what is released: less is more private. "
    "The claim is the largest capacity ever set, however little is spent. Used follows the "
    "account's own rule; epsilons do not add up in a straight line, and early jobs look dearest."
)
BEHIND = "What one account was spent on"
CHOOSE = "Account"
PACE = "At its pace so far, over 30 days at most, it is used up by {day}."
FITS = "{number} more jobs like the last one fit."
NO_SPENDS = "Nothing has been spent from this account."
NO_SPENDS_AT_ALL = "Nothing has been spent yet. Price a job, then run it:"
NEXT_JOB = "tacit quote JOB.yaml\ntacit run JOB.yaml"
DOWNLOAD = "Download as CSV"

RELEASES = "What left the silos"
ALL_PROTECTED = "Every release so far was protected."
SOME_UNPROTECTED = "The releases marked unprotected are outside every budget on this page."
APPROVALS = "What waits for approval, and what was approved"
APPROVALS_NOTE = (
    "A signature covers exactly the spec, the code and the quote of one job at one silo. No key is "
    "here, so none can be given on this page; at the silo:"
)
APPROVALS_COMMAND = "tacit job approve JOB --silo SILO --key FILE"
PROPOSALS = "Larger capacities that wait for a second person"
PROPOSALS_NOTE = (
    "A larger capacity is a larger claim, for good, so two persons of the silo's policy sign it. "
    "Nothing has changed yet; at the silo, the second:"
)
PROPOSALS_COMMAND = "tacit budget agree SILO/ACCOUNT --key FILE"
PEOPLE = "One person in several silos"
PEOPLE_NOTE = "The largest claims of the silos that one person can be in, added up."

ELSEWHERE = "Not shown, as these silos keep their ledgers elsewhere:"

EMPTY = "There is no federation here yet."
EMPTY_NEXT = "Make one with four example silos, then open the dashboard again:"
EMPTY_COMMAND = (
    "tacit init demo --example breast-cancer --silos 4\n"
    "tacit run examples/breast-cancer.yaml --home demo\n"
    "tacit dashboard --home demo"
)
NO_SILO = "This federation has no silo on this machine."
NO_SILO_NEXT = "A silo's budgets are in its own ledger. Open the dashboard where that is."
BROKEN_HOME = "The federation here cannot be read:"

VERIFYING = "Verifying the ledgers ..."
FOOT = (
    "This page reads ledgers, never rows, and cannot change anything. It is served to this machine "
    "only, without a login: whoever can use this machine can read it."
)
