"""The companies in a center. Visitors may work for them."""

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import CENTERS
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Instant, Int64, PcCode, Text
from storage.table import Table


class CompanyNew(Model):
    company_name: Text
    """The name of the company."""


class Company(CompanyNew):
    center_company_id: Int64
    """Id of the company in the center."""
    pc_code: PcCode
    creation_date: Instant
    update_date: Instant


COMPANIES = Table(
    "center_companies",
    Company,
    family="centers",
    resource="centerCompany",
    key="center_company_id",
    parents={"pc_code": CENTERS},
    hidden=[sa.Index("center_companies_pc_code_idx", "pc_code", "center_company_id")],
)

_ALL = "/centers/{pcCode}/companies"
_ONE = f"{_ALL}/{{centerCompanyId}}"

OPERATIONS: Operations = (
    crud.creates(COMPANIES, "centerCompanies.create", f"POST {_ALL}", "Add a company to a center", CompanyNew),
    crud.lists(COMPANIES, "centerCompanies.list", f"GET {_ALL}", "List the companies of a center"),
    crud.gets(COMPANIES, "centerCompanies.get", f"GET {_ONE}", "Read a company of a center"),
    crud.updates(COMPANIES, "centerCompanies.update", f"PATCH {_ONE}", "Rename a company of a center", CompanyNew),
    crud.deletes(COMPANIES, "centerCompanies.delete", f"DELETE {_ONE}", "Remove a company from a center"),
)
